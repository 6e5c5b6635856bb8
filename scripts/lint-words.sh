#!/bin/sh
# Checks the language of comments, documentation and names; `make lint` runs it. Prints each violation
# as FILE:LINE: TEXT and exits 1 if there is one.
#
# A sentence that begins with Who, What, Whoever, Whatever, Whom, Whose or How must be a question.
# Names of functions, types and modules must not contain the words that the field does not use.
set -eu

words='house|hall|parcel|parcels|stranger|strangers|strand|strands|told|tell|tells|telling|kept|recorder|desk'
words="$words|who|whoever|whom|whose|what|whatever|however|somebody|anybody|dress|trouble"
types='House|Hall|Far|Parcel|Strand|Stranger|Print|Kept|Sum|Place|Trouble|Desk|Who|How|Limits'

# Free relatives at the beginning of sentences: sentences KIND FILE... (KIND is rust, man or text).
sentences()
{
	kind=$1
	shift
	awk -v kind="$kind" '
	function flush(    rest, s, at) {
		gsub(/`[^`]*`/, "X", text)
		gsub(/"[^"]*"/, "X", text)
		gsub(/(e\.g|i\.e|etc)\./, "X", text)
		rest = text
		text = ""
		while (rest != "") {
			at = match(rest, /[.!:;?][)"*_]*( +|$)/)
			s = at ? substr(rest, 1, RSTART) : rest
			rest = at ? substr(rest, RSTART + RLENGTH) : ""
			sub(/^[ (*_-]+/, "", s)
			if (s ~ /^(Who|What|Whoever|Whatever|Whom|Whose|How)( |$)/ && s !~ /\?$/)
				printf "%s:%d: %s\n", file, line, substr(s, 1, 70)
		}
	}
	FNR == 1 { flush(); file = FILENAME; literal = 0 }
	{
		piece = $0
		begins = 0
		if (kind == "rust") {
			if (piece !~ /^[ \t]*\/\//) { flush(); next }
			sub(/^[ \t]*\/\/[\/!]? ?/, "", piece)
		} else if (kind == "man") {
			if (piece ~ /^\.Bd/) literal = 1
			if (piece ~ /^\.Ed/) literal = 0
			if (literal || piece ~ /^\.(Bl|El|Bd|Ed|Sh|Ss|Pp|It|Dd|Dt|Os|Nd|\\)/) { flush(); next }
			if (piece ~ /^\./) piece = "X"
		} else {
			if (piece ~ /^```/) { literal = !literal; flush(); next }
			if (literal) next
			if (FILENAME !~ /\.md$/) {
				if (piece !~ /^[ \t]*#/ || piece ~ /^#!/) { flush(); next }
				sub(/^[ \t]*#+ ?/, "", piece)
			}
		}
		if (piece ~ /^ *$/) { flush(); next }
		if (piece ~ /^ *([*|#-]|[0-9]+\.) /) { flush(); sub(/^ *([*|#-]+|[0-9]+\.) */, "", piece) }
		if (text == "") line = FNR
		text = text == "" ? piece : text " " piece
	}
	END { flush() }' "$@"
}

# Free relatives at the beginning of a text in the code: help and messages.
texts()
{
	awk -v q='"' '
	FNR == 1 { inside = 0 }
	/^[ \t]*\/\// { next }
	{
		s = $0
		if (s ~ "(^|[.] |" q ")(Who|What|Whoever|Whatever|Whom|Whose|How) [a-z]" && s !~ /\?/)
			printf "%s:%d: %s\n", FILENAME, FNR, substr(s, 1, 90)
	}' "$@"
}

names()
{
	awk -v words="$words" -v types="$types" '
	/^[ \t]*\/\// { next }
	match($0, /(^|[ (])(fn|mod) [a-z0-9_]+/) {
		name = substr($0, RSTART, RLENGTH)
		sub(/.* /, "", name)
		if ("_" name "_" ~ "_(" words ")_" || length(name) > 64)
			printf "%s:%d: name %s\n", FILENAME, FNR, name
	}
	match($0, /(^|[ (])(struct|enum|trait|type|union) [A-Z][A-Za-z0-9]*/) {
		name = substr($0, RSTART, RLENGTH)
		sub(/.* /, "", name)
		if (name ~ "^(" types ")$")
			printf "%s:%d: name %s\n", FILENAME, FNR, name
	}' "$@"
}

rust=$(find src tests benches build.rs -name '*.rs')
found=$(
	# shellcheck disable=SC2046,SC2086 # paths of this repository have no blanks
	{
		sentences rust $rust
		names $rust
		texts $(find src -name "*.rs")
		sentences man man/*.[1-9]
		sentences text README.md $(find doc -name '*.md') etc/*.sample etc/rules/*.toml etc/completion/* \
			scripts/*.sh rc.d/* Makefile
	}
)
[ -z "$found" ] || {
	printf '%s\n' "$found" >&2
	exit 1
}
