//! The output of a job for an attached client: every byte once, with its offset.
//!
//! JSON carries text, and a program may print any bytes. UTF-8 is sent as `data`; other bytes, and
//! text whose escapes would take more room, as `base64`.

use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Consecutive bytes of one command's output, or a remark of the daemon.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// The job's id.
    pub job: &'a str,
    /// Number of the attachment.
    pub stream: u64,
    /// Index of the command that printed it.
    pub command: usize,
    /// Offset of its first byte in all output of the job.
    pub offset: u64,
    /// The bytes.
    pub bytes: &'a [u8],
    /// A remark of the daemon about the job; no command printed it.
    pub is_remark: bool,
}

#[derive(Serialize)]
struct Head<'a> {
    process_id: &'a str,
    stream: u64,
    command: usize,
    offset: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    remark: bool,
}

const FRAME: &str = r#"{"namespace":"events","name":"output","id":"none","args":"#;

/// The frames that carry a chunk: one, or up to three where it begins or ends within a character.
pub fn output_frames(chunk: Chunk<'_>, mut send: impl FnMut(Rc<[u8]>)) {
    let [mut before, mut text, mut behind] = split_at_characters(chunk.bytes);
    let parts = [&mut before, &mut text, &mut behind];
    let mut offset = chunk.offset;
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        send(frame(&Chunk { offset, bytes: part, ..chunk }));
        offset += part.len() as u64;
    }
}

/// Bytes before the first character, whole characters, bytes of an unfinished one. Bytes that are
/// not UTF-8 are not split.
fn split_at_characters(bytes: &[u8]) -> [&[u8]; 3] {
    let continuation = |byte: &&u8| **byte & 0b1100_0000 == 0b1000_0000;
    let begin = bytes.iter().take(3).take_while(continuation).count();
    let (before, rest) = bytes.split_at(begin);
    match std::str::from_utf8(rest) {
        Ok(_) => [before, rest, &[]],
        Err(error) if error.error_len().is_none() => {
            let (text, behind) = rest.split_at(error.valid_up_to());
            [before, text, behind]
        }
        Err(_) => [bytes, &[], &[]],
    }
}

/// The binary message that carries a chunk: a line of JSON, and behind it the bytes.
pub fn binary_output(chunk: Chunk<'_>) -> Rc<[u8]> {
    let mut message = Vec::with_capacity(512 + chunk.bytes.len());
    put_head(&chunk, &mut message);
    message.push(b'\n');
    message.extend_from_slice(chunk.bytes);
    message.into()
}

fn put_head(chunk: &Chunk<'_>, to: &mut Vec<u8>) {
    let head = Head {
        process_id: chunk.job,
        stream: chunk.stream,
        command: chunk.command,
        offset: chunk.offset,
        remark: chunk.is_remark,
    };
    // Writing to a vector does not fail, and JSON can represent all of it.
    let _ = serde_json::to_writer(to, &head);
}

fn frame(chunk: &Chunk<'_>) -> Rc<[u8]> {
    let mut frame = Vec::with_capacity(FRAME.len() + 256 + chunk.bytes.len() / 3 * 4);
    frame.extend_from_slice(FRAME.as_bytes());
    put_head(chunk, &mut frame);
    frame.pop();
    let start = frame.len();
    let is_text = std::str::from_utf8(chunk.bytes).is_ok_and(|text| {
        frame.extend_from_slice(br#","data":"#);
        let _ = serde_json::to_writer(&mut frame, text);
        // Not much longer than base64.
        frame.len() - start <= chunk.bytes.len() / 2 * 3 + 64
    });
    if !is_text {
        frame.truncate(start);
        let mut base64 = br#","base64":""#.to_vec();
        frame.append(&mut base64);
        let length = chunk.bytes.len().div_ceil(3) * 4;
        let at = frame.len();
        frame.resize(at + length, 0);
        if let Some(room) = frame.get_mut(at..) {
            let _ = STANDARD.encode_slice(chunk.bytes, room);
        }
        frame.push(b'"');
    }
    frame.extend_from_slice(b"}}");
    frame.into()
}

/// The frame that reports that `bytes` bytes from `offset` on are no longer available.
pub fn left_out_of_output(job: &str, stream: u64, offset: u64, bytes: u64) -> String {
    let args = json!({ "process_id": job, "stream": stream, "offset": offset, "left_out": bytes });
    format!("{FRAME}{args}}}")
}

/// The last frame of an attachment; `end` has the fields of the job's outcome, if it has ended, and
/// `offset` is the number of bytes printed.
pub fn end_of_output(job: &str, stream: u64, offset: u64, end: Map<String, Value>) -> String {
    let mut args = Map::new();
    args.insert("process_id".to_owned(), job.into());
    args.insert("stream".to_owned(), stream.into());
    args.insert("offset".to_owned(), offset.into());
    args.insert("end".to_owned(), true.into());
    args.extend(end);
    format!("{FRAME}{}}}", Value::Object(args))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(bytes: &[u8]) -> Vec<Value> {
        let mut frames = Vec::new();
        let chunk =
            Chunk { job: "j\"", stream: 7, command: 1, offset: 100, bytes, is_remark: false };
        output_frames(chunk, |frame| {
            let frame: Value = serde_json::from_slice(&frame).unwrap();
            assert_eq!((&frame["namespace"], &frame["name"]), (&json!("events"), &json!("output")));
            frames.push(frame["args"].clone());
        });
        frames
    }

    fn bytes_of(frames: &[Value]) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::new();
        for frame in frames {
            assert_eq!(frame["offset"], 100 + bytes.len(), "chunks follow each other");
            match (frame["data"].as_str(), frame["base64"].as_str()) {
                (Some(text), None) => bytes.extend(text.as_bytes()),
                (None, Some(text)) => bytes.extend(STANDARD.decode(text).unwrap()),
                other => panic!("{other:?}"),
            }
        }
        bytes
    }

    #[test]
    fn chunk_of_any_bytes_is_decoded_unchanged() {
        let text = "a line of text\nü \u{1}\t\"\\\n".repeat(50);
        assert_eq!(
            frames(b"a\n"),
            [json!({"process_id": "j\"", "stream": 7, "command": 1, "offset": 100, "data": "a\n"})]
        );
        let random: Vec<u8> =
            (0..9999_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for bytes in [text.as_bytes(), &random, &[0; 1000], &[0x80; 5], &[0xc3], b"\xff", &[0; 1]] {
            assert_eq!(bytes_of(&frames(bytes)), bytes);
        }
        // However it is cut, text stays text.
        for cut in 0..text.len() {
            let (first, second) = text.as_bytes().split_at(cut);
            let split: Vec<u8> =
                [first, second].iter().flat_map(|part| bytes_of(&frames(part))).collect();
            assert_eq!(split, text.as_bytes());
            let in_base64 = |part| {
                let frames = frames(part);
                let base64 = frames.iter().filter_map(|frame| frame["base64"].as_str());
                base64.map(str::len).sum::<usize>()
            };
            assert!(in_base64(first) <= 4 && in_base64(second) <= 4, "cut at {cut}");
        }
    }

    #[test]
    fn frame_is_at_most_half_longer_than_its_bytes() {
        for bytes in [vec![0; 60_000], vec![0xff; 60_000], vec![b'"'; 60_000], vec![b'\n'; 60_000]]
        {
            let chunk = Chunk {
                job: "j",
                stream: 1,
                command: 0,
                offset: 0,
                bytes: &bytes,
                is_remark: true,
            };
            output_frames(chunk, |frame| assert!(frame.len() < 91_000, "{}", frame.len()));
        }
    }
}
