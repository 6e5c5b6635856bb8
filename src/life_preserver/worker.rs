//! The part of a file worker that looks at followed files.

use std::collections::BTreeMap;
use std::time::Instant;

use super::follower::{Answer, FollowId, Follower, Question, Watching};
use crate::sys::may_block::MayBlock;

/// The files that a worker has open and watched.
#[derive(Debug, Default)]
pub struct Looks {
    followers: BTreeMap<FollowId, Follower>,
}

impl Looks {
    /// The answer to a question of [`Next::Ask`](super::Next::Ask), in parts.
    pub fn answer(
        &mut self,
        id: FollowId,
        question: &[u8],
        watching: &mut dyn Watching,
        may_block: MayBlock,
        now: Instant,
    ) -> Vec<Vec<u8>> {
        let Ok(question) = serde_json::from_slice::<Question>(question) else { return Vec::new() };
        let follower = self.followers.entry(id).or_insert_with(|| Follower::new(id));
        let mut bytes = Vec::new();
        let answer = follower.answer(question, &mut bytes, watching, may_block, now);
        let answer = serde_json::to_vec(&answer).unwrap_or_default();
        let length = u32::try_from(answer.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
        vec![length, answer, bytes]
    }

    /// Closes a file and ends its watches.
    pub fn release(&mut self, id: FollowId, watching: &mut dyn Watching) {
        if let Some(mut follower) = self.followers.remove(&id) {
            follower.release(watching);
        }
    }
}

/// The answer in the bytes that a worker sent, and where in them the bytes that it read begin.
pub(super) fn read_answer(bytes: &[u8]) -> Option<(Answer, usize)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let answer = serde_json::from_slice(rest.get(..length)?).ok()?;
    Some((answer, 4 + length))
}
