//! A bounded send queue for one peer. Superseded messages are coalesced.
//!
//! A slow peer must not cost unlimited memory nor delay others. The queue accounts for unsent
//! bytes; its owner decides about a peer whose queue is full.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::rc::Rc;

use zeroize::Zeroize;

use super::websocket;
use crate::charge::{Account, Charge};

/// An outgoing message.
pub trait OutgoingMessage: Sized {
    /// Messages with the same key are coalesced.
    type Key: Copy + Ord;

    /// Its encoded size in bytes, approximately.
    fn weight(&self) -> usize;
    /// The key, if it can be coalesced with a newer message.
    fn key(&self) -> Option<Self::Key>;
    /// Coalesces two messages, at the newer one's position.
    fn join(self, newer: Self) -> Self;
    /// The encoded message.
    fn bytes(&self) -> Rc<[u8]>;
    /// It is a binary message, and holds no secret.
    fn is_binary(&self) -> bool {
        false
    }
}

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The send queue of one peer.
#[derive(Debug)]
pub struct Outbox<P: OutgoingMessage> {
    /// In bytes.
    limit: usize,
    /// Queued and in flight, in bytes.
    used: Charge,
    /// `None`: coalesced with a newer message.
    waiting: VecDeque<Option<(P, usize)>>,
    /// Number of `None` in `waiting`.
    holes: usize,
    /// Sequence number of the first entry of `waiting`.
    first: u64,
    /// Sequence numbers of messages that can be coalesced.
    places: BTreeMap<P::Key, u64>,
    flight: VecDeque<Chunk>,
    /// Bytes of the first chunk that are sent already.
    sent: usize,
}

/// Bytes in flight, which can no longer change.
#[derive(Debug)]
struct Chunk {
    header: [u8; websocket::HEADER],
    header_len: usize,
    payload: Rc<[u8]>,
    /// Its accounted size.
    weight: usize,
    kind: Kind,
    /// Its sequence number; for messages only.
    place: u64,
}

/// Zeroized on drop: the payload may contain a token.
impl Drop for Chunk {
    fn drop(&mut self) {
        if self.kind != Kind::Binary
            && let Some(payload) = Rc::get_mut(&mut self.payload)
        {
            payload.zeroize();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The reply to the upgrade request, which precedes all frames.
    Head,
    Message,
    Binary,
    Ping,
    Pong,
    Raw,
}

impl Chunk {
    fn len(&self) -> usize {
        self.header_len + self.payload.len()
    }

    fn raw(bytes: Vec<u8>, kind: Kind) -> Chunk {
        Chunk {
            header: [0; websocket::HEADER],
            header_len: 0,
            payload: bytes.into(),
            weight: 0,
            kind,
            place: 0,
        }
    }
}

/// Maximum number of chunks per system call.
const CHUNKS: usize = 32;
/// Entries are compacted beyond this number of holes, and beyond half of all.
const HOLES: usize = 16;

impl<P: OutgoingMessage> Outbox<P> {
    /// An empty queue of at most `limit` bytes, charged to `account`.
    pub fn new(limit: usize, account: &Account) -> Outbox<P> {
        Outbox {
            limit,
            used: Charge::new(account, 0),
            waiting: VecDeque::new(),
            holes: 0,
            first: 0,
            places: BTreeMap::new(),
            flight: VecDeque::new(),
            sent: 0,
        }
    }

    /// Changes the limit; the content stays.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Moves its charges to another account.
    pub fn move_to(&mut self, account: &Account) {
        self.used.move_to(account);
    }

    /// Bytes queued or in flight.
    pub fn used(&self) -> usize {
        self.used.amount()
    }

    /// Whether more than half of the limit is free.
    pub fn is_below_half(&self) -> bool {
        self.used() < self.limit / 2
    }

    /// Whether nothing is left to be sent.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.flight.is_empty()
    }

    /// Sequence number of the next message.
    pub fn next_place(&self) -> u64 {
        self.first + self.waiting.len() as u64
    }

    /// Whether all messages with sequence numbers below `place` were sent or dropped; after
    /// compaction possibly reported late. A coalesced message has the number of the newer one.
    pub fn has_sent(&self, place: u64) -> bool {
        match self.flight.iter().find(|chunk| matches!(chunk.kind, Kind::Message | Kind::Binary)) {
            Some(unsent) => unsent.place >= place,
            None => self.waiting.is_empty() || self.first >= place,
        }
    }

    /// Appends `message`, coalesced with the queued message of the same key.
    pub fn push(&mut self, message: P) -> Result<(), Full> {
        let key = message.key();
        let message = match key.and_then(|key| self.take_place(key)) {
            Some(older) => older.join(message),
            None => message,
        };
        let weight = message.weight();
        if self.used() + weight > self.limit {
            return Err(Full);
        }
        self.count(weight as isize);
        if let Some(key) = key {
            self.places.insert(key, self.first + self.waiting.len() as u64);
        }
        self.waiting.push_back(Some((message, weight)));
        Ok(())
    }

    fn take_place(&mut self, key: P::Key) -> Option<P> {
        let place = self.places.remove(&key)?;
        let index = usize::try_from(place.checked_sub(self.first)?).ok()?;
        let (message, weight) = self.waiting.get_mut(index)?.take()?;
        self.count(-(weight as isize));
        self.holes += 1;
        if self.holes > HOLES + self.waiting.len() / 2 {
            self.close_holes();
        }
        Some(message)
    }

    /// A peer that never reads may cause coalescing for days: holes must not accumulate.
    fn close_holes(&mut self) {
        self.waiting.retain(Option::is_some);
        self.holes = 0;
        let first = self.first;
        let numbered = self.waiting.iter().flatten().zip(first..);
        self.places =
            numbered.filter_map(|((message, _), place)| Some((message.key()?, place))).collect();
    }

    fn count(&mut self, bytes: isize) {
        self.used.set(self.used().saturating_add_signed(bytes));
    }

    /// Queues the reply to the upgrade request: it always stays first.
    pub fn push_head(&mut self, bytes: Vec<u8>) {
        self.flight.push_front(Chunk::raw(bytes, Kind::Head));
    }

    /// Queues a ping before all messages that are not in flight; at most one.
    pub fn push_ping(&mut self, frame: Vec<u8>) {
        self.push_control(frame, Kind::Ping);
    }

    /// Queues a pong; only the newest must be sent (RFC 6455 section 5.5.3).
    pub fn push_pong(&mut self, frame: Vec<u8>) {
        self.push_control(frame, Kind::Pong);
    }

    fn push_control(&mut self, frame: Vec<u8>, kind: Kind) {
        let settled = self.settled();
        if let Some(at) = self.flight.iter().skip(settled).position(|chunk| chunk.kind == kind) {
            self.flight.remove(settled + at);
        }
        self.flight.insert(settled, Chunk::raw(frame, kind));
    }

    /// Number of chunks at the front that are never overtaken.
    fn settled(&self) -> usize {
        let is_head = |chunk: &Chunk| chunk.kind == Kind::Head;
        usize::from(self.sent > 0 || self.flight.front().is_some_and(is_head))
    }

    /// Appends raw bytes after everything else.
    pub fn push_raw_last(&mut self, bytes: Vec<u8>) {
        self.fill(usize::MAX);
        self.flight.push_back(Chunk::raw(bytes, Kind::Raw));
    }

    /// Drops everything that is not in flight, except the reply to the upgrade request.
    pub fn clear(&mut self) {
        let settled = self.settled();
        self.flight.truncate(settled);
        let in_flight = self.flight.front().map_or(0, |chunk| chunk.weight);
        self.first = self.next_place();
        self.waiting = VecDeque::new();
        self.holes = 0;
        self.places.clear();
        self.used.set(in_flight);
    }

    /// Takes the next message out, with its sequence number: for a transport with its own framing.
    pub fn take(&mut self) -> Option<(u64, Rc<[u8]>)> {
        while let Some(slot) = self.waiting.pop_front() {
            let place = self.first;
            self.first += 1;
            let Some((message, weight)) = slot else {
                self.holes -= 1;
                continue;
            };
            self.leave_place(&message, place);
            self.count(-(weight as isize));
            return Some((place, message.bytes()));
        }
        self.shrink();
        None
    }

    fn leave_place(&mut self, message: &P, place: u64) {
        if let Some(key) = message.key().filter(|key| self.places.get(key) == Some(&place)) {
            self.places.remove(&key);
        }
    }

    /// Encodes queued messages until about `bytes` are in flight.
    fn fill(&mut self, bytes: usize) {
        let mut in_flight: usize = self.flight.iter().map(Chunk::len).sum();
        while in_flight < bytes {
            let Some(slot) = self.waiting.pop_front() else { break };
            let place = self.first;
            self.first += 1;
            let Some((message, weight)) = slot else {
                self.holes -= 1;
                continue;
            };
            self.leave_place(&message, place);
            let payload = message.bytes();
            let is_binary = message.is_binary();
            let (header, header_len) = websocket::data_header(payload.len(), is_binary);
            let kind = if is_binary { Kind::Binary } else { Kind::Message };
            let chunk = Chunk { header, header_len, payload, weight, kind, place };
            in_flight += chunk.len();
            self.flight.push_back(chunk);
        }
    }

    /// Passes about `bytes` of the next bytes to `write`, which returns the number accepted.
    /// Returns `None` where nothing is left.
    pub fn send<E>(
        &mut self,
        bytes: usize,
        write: impl FnOnce(&[IoSlice<'_>]) -> Result<usize, E>,
    ) -> Option<Result<(), E>> {
        self.fill(bytes);
        if self.flight.is_empty() {
            self.shrink();
            return None;
        }
        let mut slices = [IoSlice::new(&[]); 2 * CHUNKS];
        let mut count = 0;
        let mut skip = self.sent;
        for chunk in self.flight.iter().take(CHUNKS) {
            let header = chunk.header.get(skip.min(chunk.header_len)..chunk.header_len);
            let payload = chunk.payload.get(skip.saturating_sub(chunk.header_len)..);
            for part in [header, payload].into_iter().flatten().filter(|part| !part.is_empty()) {
                if let Some(slice) = slices.get_mut(count) {
                    *slice = IoSlice::new(part);
                    count += 1;
                }
            }
            skip = 0;
        }
        let written = match write(slices.get(..count).unwrap_or_default()) {
            Ok(written) => written,
            Err(error) => return Some(Err(error)),
        };
        self.consume(written);
        Some(Ok(()))
    }

    fn consume(&mut self, written: usize) {
        self.sent += written;
        while let Some(chunk) = self.flight.front()
            && self.sent >= chunk.len()
        {
            self.sent -= chunk.len();
            let weight = chunk.weight;
            self.flight.pop_front();
            self.count(-(weight as isize));
        }
    }

    /// Usually most of a thousand clients have empty queues.
    fn shrink(&mut self) {
        const KEPT: usize = 4;
        if self.waiting.capacity() > KEPT {
            self.waiting = VecDeque::new();
        }
        if self.flight.capacity() > KEPT {
            self.flight = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text that is coalesced with another of the same first letter, if that is a capital.
    #[derive(Debug)]
    struct Word(String);

    impl OutgoingMessage for Word {
        type Key = u8;
        fn weight(&self) -> usize {
            self.0.len()
        }
        fn key(&self) -> Option<u8> {
            self.0.bytes().next().filter(u8::is_ascii_uppercase)
        }
        fn join(self, newer: Word) -> Word {
            Word(self.0 + &newer.0)
        }
        fn bytes(&self) -> Rc<[u8]> {
            self.0.as_bytes().into()
        }
    }

    fn outbox(limit: usize) -> Outbox<Word> {
        Outbox::new(limit, &Account::default())
    }

    fn push(outbox: &mut Outbox<Word>, words: &str) -> Result<(), Full> {
        words.split(' ').try_for_each(|word| outbox.push(Word(word.to_owned())))
    }

    /// Sends `at_most` bytes per call, and returns the payloads of all frames.
    fn sent(outbox: &mut Outbox<Word>, at_most: usize) -> Vec<String> {
        let mut bytes = vec![];
        while let Some(result) = outbox.send::<()>(64, |slices| {
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            let n = all.len().min(at_most);
            bytes.extend_from_slice(&all[..n]);
            Ok(n)
        }) {
            result.unwrap();
        }
        let mut texts = vec![];
        while !bytes.is_empty() {
            let (from, length) = match bytes[1] {
                126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
                short => (2, usize::from(short)),
            };
            let text = String::from_utf8_lossy(&bytes[from..from + length]);
            texts.push(format!("{:x}:{text}", bytes[0]));
            bytes.drain(..from + length);
        }
        texts
    }

    #[test]
    fn outbox_sends_in_order_through_partial_writes() {
        for at_most in [1, 2, 3, 5, 1000] {
            let mut o = outbox(1000);
            push(&mut o, "one two three four").unwrap();
            assert_eq!(sent(&mut o, at_most), ["81:one", "81:two", "81:three", "81:four"]);
            assert!(o.is_empty());
            assert_eq!(o.used(), 0);
        }
    }

    #[test]
    fn outbox_coalesces_at_the_position_of_the_newest() {
        let mut o = outbox(1000);
        push(&mut o, "A1 b B1 A2 c A3").unwrap();
        assert_eq!(o.used(), 10);
        assert_eq!(sent(&mut o, 1000), ["81:b", "81:B1", "81:c", "81:A1A2A3"]);
        push(&mut o, "A4 A5").unwrap();
        assert_eq!(sent(&mut o, 1000), ["81:A4A5"]);
    }

    #[test]
    fn joining_for_ever_takes_no_room() {
        let mut o = outbox(1 << 20);
        push(&mut o, "first A B second").unwrap();
        for _ in 0..10_000 {
            push(&mut o, "A B").unwrap();
            assert!(o.waiting.len() <= 2 * (HOLES + 4), "{}", o.waiting.len());
        }
        push(&mut o, "last A").unwrap();
        let all = sent(&mut o, 1000);
        let joined = [format!("81:{}", "B".repeat(10_001)), format!("81:{}", "A".repeat(10_002))];
        let [b, a] = &joined;
        assert_eq!(all, ["81:first", "81:second", b, "81:last", a]);
        assert_eq!((o.holes, o.used()), (0, 0));
    }

    #[test]
    fn outbox_in_flight_message_is_not_coalesced() {
        let mut o = outbox(1000);
        push(&mut o, "A1").unwrap();
        o.send::<()>(64, |_| Ok(1)).unwrap().unwrap();
        push(&mut o, "A2").unwrap();
        let mut rest = vec![];
        while o
            .send::<()>(64, |s| {
                s.iter().for_each(|s| rest.extend_from_slice(s));
                Ok(s.iter().map(|s| s.len()).sum())
            })
            .is_some()
        {}
        assert_eq!(rest, b"\x02A1\x81\x02A2");
    }

    #[test]
    fn outbox_full_at_its_limit_has_room_after_sending() {
        let mut o = outbox(6);
        push(&mut o, "abc def").unwrap();
        assert_eq!(push(&mut o, "g"), Err(Full));
        assert!(!o.is_below_half());
        sent(&mut o, 1000);
        assert_eq!(push(&mut o, "g"), Ok(()));
        assert!(o.is_below_half());
    }

    #[test]
    fn outbox_total_counts_all_and_forgets_dropped_ones() {
        let total = Account::default();
        let mut a: Outbox<Word> = Outbox::new(100, &total);
        let mut b: Outbox<Word> = Outbox::new(100, &total);
        push(&mut a, "one X1 X2").unwrap();
        push(&mut b, "four").unwrap();
        assert_eq!(total.used(), 11);
        drop(b);
        assert_eq!(total.used(), 7);
        a.clear();
        assert_eq!(total.used(), 0);
    }

    #[test]
    fn outbox_knows_which_messages_were_sent() {
        let mut o = outbox(1000);
        assert!(o.has_sent(o.next_place()));
        push(&mut o, "one A1 two").unwrap();
        let place = o.next_place();
        push(&mut o, "three A2").unwrap();
        let end = o.next_place();
        assert!(!o.has_sent(place));
        let mut left = vec![];
        let mut send = |o: &mut Outbox<Word>, most: usize| {
            o.send::<()>(8, |slices| {
                let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
                let taken = all.len().min(most);
                left.extend_from_slice(&all[..taken]);
                Ok(taken)
            })
        };
        send(&mut o, 5 + 4).unwrap().unwrap();
        assert!(!o.has_sent(place), "of \"two\" a byte is left");
        o.push_ping(vec![0x89, 0]);
        send(&mut o, 1).unwrap().unwrap();
        assert!(o.has_sent(place) && !o.has_sent(end));
        o.clear();
        assert!(o.has_sent(end), "what is given up is not waited for");
        while send(&mut o, 1000).is_some() {}
        assert!(o.has_sent(end) && o.is_empty());
    }

    #[test]
    fn outbox_knows_sent_messages_after_compaction() {
        let mut o = outbox(1 << 20);
        push(&mut o, "one A1").unwrap();
        for _ in 0..100 {
            push(&mut o, "A").unwrap();
        }
        let place = o.next_place();
        for _ in 0..100 {
            push(&mut o, "A").unwrap();
        }
        assert!(!o.has_sent(place));
        sent(&mut o, 1000);
        assert!(o.has_sent(place));
    }

    #[test]
    fn outbox_messages_can_be_taken_one_by_one() {
        let mut o = outbox(1000);
        push(&mut o, "A1 b A2").unwrap();
        let place = o.next_place();
        let take = |o: &mut Outbox<Word>| o.take().map(|(_, bytes)| bytes.to_vec());
        assert_eq!(take(&mut o).unwrap(), b"b");
        push(&mut o, "A3").unwrap();
        assert!(!o.has_sent(place));
        assert_eq!(take(&mut o).unwrap(), b"A1A2A3");
        assert!(o.has_sent(place) && o.is_empty() && o.used() == 0);
        assert_eq!(take(&mut o), None);
        push(&mut o, "A4").unwrap();
        assert_eq!(take(&mut o).unwrap(), b"A4", "what was taken is not joined");
    }

    #[test]
    fn outbox_control_frame_precedes_queued_messages_only() {
        let mut o = outbox(1000);
        push(&mut o, "one two").unwrap();
        o.send::<()>(64, |_| Ok(1)).unwrap().unwrap();
        o.push_pong(vec![0x8a, 1, b'1']);
        o.push_pong(vec![0x8a, 1, b'2']);
        let mut rest = vec![0x81];
        while o
            .send::<()>(64, |s| {
                s.iter().for_each(|s| rest.extend_from_slice(s));
                Ok(s.iter().map(|s| s.len()).sum())
            })
            .is_some()
        {}
        assert_eq!(rest, b"\x81\x03one\x8a\x012\x81\x03two");
    }

    #[test]
    fn outbox_holds_one_ping_and_one_pong() {
        let mut o = outbox(1000);
        for _ in 0..3 {
            o.push_ping(vec![0x89, 1, b'p']);
            o.push_pong(vec![0x8a, 1, b'q']);
        }
        assert_eq!(sent(&mut o, 1000), ["8a:q", "89:p"]);
    }

    #[test]
    fn outbox_upgrade_reply_stays_first() {
        let mut o = outbox(1000);
        // Like a frame, for `sent`.
        o.push_head(vec![0xaa, 1, b'h']);
        push(&mut o, "one").unwrap();
        o.push_pong(vec![0x8a, 1, b'q']);
        o.clear();
        o.push_pong(vec![0x8a, 1, b'r']);
        o.push_raw_last(vec![0x88, 0]);
        assert_eq!(sent(&mut o, 1), ["aa:h", "8a:r", "88:"]);
    }

    #[test]
    fn outbox_cleared_keeps_the_frame_in_flight() {
        let mut o = outbox(1000);
        push(&mut o, "one two three").unwrap();
        o.send::<()>(64, |_| Ok(2)).unwrap().unwrap();
        o.clear();
        o.push_raw_last(vec![0x88, 0]);
        assert_eq!(o.used(), 3);
        let mut rest = vec![];
        while o
            .send::<()>(64, |s| {
                s.iter().for_each(|s| rest.extend_from_slice(s));
                Ok(s.iter().map(|s| s.len()).sum())
            })
            .is_some()
        {}
        assert_eq!(rest, b"one\x88\x00");
    }
}
