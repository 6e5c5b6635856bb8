//! The protocol's messages as values, and their JSON.
//!
//! Contains exactly what two programs must agree on: no sockets, no clock, and no dependency on
//! other modules. So the protocol can be read and tested in one place.

mod bridge;
mod command;
mod decimal;
mod decoder;
mod event;
mod excerpt;
mod hex;
mod id;
mod job_event;
mod json;
mod outcome;
mod output;
mod priority;
mod quoted;
mod reply;
mod request;
mod role;
mod time;

pub use bridge::{
    BridgeFrame, IDENTIFY_ID, KeyChecksum, LIST_KEYS_ID, MOST_CHECKSUMS, PeerAnswer, PeerKind,
    SERVER_AUTH_ID, bridge_event, identify_request, is_peer_id, list_keys_request, routed,
};
pub use command::{
    AlertCommand, Attach, Command, CommandText, Credentials, Cursor, EMITTED, Emission,
    HistoryQuery, JobCommand, JobRequest, JobUser, KeyCommand, NewKey, NotifyCommand, Since,
    Subscription, requests,
};
pub use decimal::decimal;
pub use decoder::Decoder;
pub use event::{
    AlertEvent, Event, EventName, LifePreserverEvent, NoticeEvent, Published, QueueEvent, Spelling,
    StateNews, SystemStateEvent, gap,
};
pub use excerpt::{Excerpt, Shown, left_out_marker};
pub use hex::{from_hex, to_hex};
pub use id::{JobId, KeyId, MAX_NAME, check_name};
pub use job_event::{
    Class, Finished, JobEvent, JobHead, Phase, Pieces, Range, Running, fair_share, is_reserved,
};
pub use json::{JsonFields, encoded_len};
pub use outcome::{JobResult, Outcome};
pub use output::{Chunk, binary_output, end_of_output, left_out_of_output, output_frames};
pub use priority::Priority;
pub use quoted::Quoted;
pub use reply::{
    Attached, ErrorCode, Killed, Position, Refusal, Reply, Started, WhoAmI, error, reply,
};
pub use request::{Frame, Id, ReplyTo, Request};
pub use role::{Need, Role};
pub use time::{parse_rfc3339, rfc3339};

/// Level of the protocol, incremented when requests, events or fields are added.
pub const PROTOCOL_LEVEL: u32 = 2;
