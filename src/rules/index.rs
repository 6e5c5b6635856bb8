//! Selects the templates of a rule set that a text may match, without trying all of them.
//!
//! A log may contain text of any origin, and a line is matched at several positions: so a template
//! is only tried where its first literal stands, if the line also has the other literals; and a
//! line that matches beginnings of rules again and again is given up.

use std::cell::OnceCell;

use super::set::{Matcher, RuleSet};
use super::template::Template;

/// Maximum number of failed templates on one line.
const TRIES: usize = 16;

/// The templates of a rule set, by their first bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// First byte in lower case, and index into `matchers`; sorted.
    literal: Vec<(u8, usize)>,
    /// Those that begin with a placeholder.
    open: Vec<usize>,
    /// Rule and matcher.
    matchers: Vec<(usize, usize)>,
    /// Some rules have patterns for the whole line.
    pub(super) has_patterns: bool,
}

/// Cache of searches in a line while the templates of one set are tried on it.
#[derive(Debug)]
pub(super) struct Tries<'l> {
    line: &'l str,
    /// In lower case, on demand.
    lower: OnceCell<String>,
    /// Whether the line has the literals of a template; empty before the first use.
    possible: Vec<Option<bool>>,
    left: usize,
    /// Up to here the fields of the line were read.
    pub(super) fields_end: usize,
}

impl<'l> Tries<'l> {
    pub(super) fn new(line: &'l str) -> Tries<'l> {
        Tries { line, lower: OnceCell::new(), possible: Vec::new(), left: TRIES, fields_end: 0 }
    }

    /// Whether the maximum number of failed templates is reached.
    pub(super) fn is_enough(&mut self) -> bool {
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        left.is_none()
    }
}

impl Index {
    pub(super) fn of(set: &RuleSet) -> Index {
        let mut index = Index::default();
        for (rule, matchers) in set.rules.iter().map(|rule| &rule.matchers).enumerate() {
            for (at, matcher) in matchers.iter().enumerate() {
                let Matcher::Template(template) = matcher else {
                    index.has_patterns = true;
                    continue;
                };
                let number = index.matchers.len();
                index.matchers.push((rule, at));
                match template.first_byte() {
                    Some(byte) => index.literal.push((byte.to_ascii_lowercase(), number)),
                    None => index.open.push(number),
                }
            }
        }
        index.literal.sort_unstable();
        index
    }

    /// The numbers of the templates that may match one of the texts, in the order of the rules.
    pub(super) fn candidates(
        &self,
        set: &RuleSet,
        texts: &[&str],
        tries: &mut Tries<'_>,
    ) -> Vec<usize> {
        let mut found = self.open.clone();
        for text in texts {
            let Some(first) = text.bytes().next().map(|byte| byte.to_ascii_lowercase()) else {
                continue;
            };
            let from = self.literal.partition_point(|(byte, _)| *byte < first);
            let same = self.literal.iter().skip(from).take_while(|(byte, _)| *byte == first);
            let begins = |number: &usize| {
                self.template(set, *number).is_some_and(|(_, template)| template.begins(text))
            };
            found.extend(same.map(|(_, number)| *number).filter(begins));
        }
        found.retain(|number| self.may_be_in(set, *number, tries));
        found.sort_unstable();
        found.dedup();
        found
    }

    fn may_be_in(&self, set: &RuleSet, number: usize, tries: &mut Tries<'_>) -> bool {
        tries.possible.resize(self.matchers.len(), None);
        let Some(known) = tries.possible.get_mut(number) else { return false };
        let lower = || &**tries.lower.get_or_init(|| tries.line.to_ascii_lowercase());
        let template = self.template(set, number);
        *known
            .get_or_insert_with(|| template.is_some_and(|(_, it)| it.may_be_in(tries.line, lower)))
    }

    /// A template by number, and the index of its rule.
    pub(super) fn template<'s>(
        &self,
        set: &'s RuleSet,
        number: usize,
    ) -> Option<(usize, &'s Template)> {
        let (rule, at) = *self.matchers.get(number)?;
        match set.rules.get(rule)?.matchers.get(at)? {
            Matcher::Template(template) => Some((rule, template)),
            Matcher::Pattern(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Reader;
    use super::*;
    use crate::config::Rules;

    #[test]
    fn line_is_given_up_after_many_vain_tries() {
        let mut tries = Tries::new("");
        assert_eq!((0..100).take_while(|_| !tries.is_enough()).count(), TRIES);
        let mut reader = Reader::new(vec![Rules::default().get("sanoid").unwrap()]);
        let vain = "taking snapshot x: ".repeat(TRIES + 1);
        reader.read(&format!("{vain}taking snapshot tank@a"));
        assert_eq!(reader.counts().matched, 1, "the first place has the name at the end");
    }

    #[test]
    fn candidates_begin_as_the_text_and_have_all_literals() {
        let set = Rules::default().get("lpreserver").unwrap();
        let index = Index::of(&set);
        let numbers = |line: &str| index.candidates(&set, &[line, line], &mut Tries::new(line));
        assert!(numbers("no rule begins so").is_empty());
        assert!(numbers("error: x failed pruning snapshot a").is_empty(), "without ` on `");
        let first = numbers("CREATING SNAPSHOT ON tank");
        assert_eq!(first, [0, 2]);
        assert!(
            index.template(&set, first[0]).unwrap().1.captures("creating snapshot on t").is_some()
        );
    }
}
