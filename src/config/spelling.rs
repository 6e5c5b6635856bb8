//! Suggestions for mistyped names.

/// Only this many characters of a word are compared: no known name is as long.
const LOOKED_AT: usize = 64;

/// The element of `known` with the smallest edit distance to `word`; the first of equals.
pub(super) fn nearest<'k>(
    word: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> Option<Suggestion<'k>> {
    let word: Vec<char> = word.chars().take(LOOKED_AT).map(fold).collect();
    let (distance, name) = known
        .into_iter()
        .map(|name| (distance(&word, &name.chars().map(fold).collect::<Vec<char>>()), name))
        .min_by_key(|(distance, _)| *distance)?;
    Some(Suggestion { name, close: distance <= (name.len() / 3).max(1) })
}

/// A suggestion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suggestion<'k> {
    pub(super) name: &'k str,
    /// It is probably a misspelling of the same word.
    pub(super) close: bool,
}

/// Case and the kind of dash do not count as edits.
fn fold(letter: char) -> char {
    if letter == '-' { '_' } else { letter.to_ascii_lowercase() }
}

/// Number of insertions, deletions, substitutions and swaps of neighbours ("optimal string
/// alignment"). Time and memory grow with the product and the sum of the lengths.
fn distance(a: &[char], b: &[char]) -> usize {
    let at = |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX / 2);
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut previous_of_a = None;
    for (i, of_a) in a.iter().enumerate() {
        let (mut row, mut best) = (vec![i + 1], i + 1);
        let mut previous_of_b = None;
        for (j, of_b) in b.iter().enumerate() {
            let substituted = at(&last, j) + usize::from(of_a != of_b);
            best = substituted.min(at(&last, j + 1) + 1).min(best + 1);
            if previous_of_b == Some(of_a) && previous_of_a == Some(of_b) {
                best = best.min(at(&before, j.saturating_sub(1)) + 1);
            }
            row.push(best);
            previous_of_b = Some(of_b);
        }
        before = std::mem::replace(&mut last, row);
        previous_of_a = Some(of_a);
    }
    at(&last, b.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edits(a: &str, b: &str) -> usize {
        distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>())
    }

    #[test]
    fn edits_are_counted() {
        assert_eq!(edits("", ""), 0);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("abc", ""), 3);
        assert_eq!(edits("lisen", "listen"), 1);
        assert_eq!(edits("lsiten", "listen"), 1);
        assert_eq!(edits("kitten", "sitting"), 3);
    }

    #[test]
    fn nearest_name_wins_with_its_distance() {
        let known = ["listen", "listen_plain", "socket", "outbox"];
        let slip = nearest("lisen", known).unwrap();
        assert_eq!(slip, Suggestion { name: "listen", close: true });
        let dashed = nearest("Listen-Plain", known).unwrap();
        assert_eq!(dashed, Suggestion { name: "listen_plain", close: true });
        assert!(!nearest("colour", known).unwrap().close);
        assert_eq!(nearest("x", []), None);
    }
}
