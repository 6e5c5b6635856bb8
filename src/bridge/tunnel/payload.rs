//! Encoding of records in payloads: `tls <base64>`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Broken;

/// Maximum number of bytes of records in one payload (protocol section 5).
pub const RECORDS: usize = 16 * 1024;

const PREFIX: &str = "tls ";

/// Whether a payload belongs to a tunnel.
pub fn is_tunnelled(payload: &str) -> bool {
    payload.starts_with(PREFIX)
}

/// The first bytes of the records in a payload, without decoding the rest; empty for invalid
/// base64.
pub fn head(payload: &str) -> Vec<u8> {
    let start = payload.strip_prefix(PREFIX).and_then(|text| text.get(..8));
    start.and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default()
}

/// The payload with these records.
pub fn encode(records: &[u8]) -> String {
    let mut payload = String::with_capacity(PREFIX.len() + records.len().div_ceil(3) * 4);
    payload.push_str(PREFIX);
    STANDARD.encode_string(records, &mut payload);
    payload
}

/// The records in a payload.
///
/// # Errors The payload does not belong to a tunnel, or is too long.
pub fn decode(payload: &str) -> Result<Vec<u8>, Broken> {
    let text = payload.strip_prefix(PREFIX).ok_or(Broken::Garbage("no payload of a tunnel"))?;
    if text.len() > RECORDS.div_ceil(3) * 4 {
        return Err(Broken::Garbage("more records than a payload may hold"));
    }
    let records =
        STANDARD.decode(text).map_err(|_| Broken::Garbage("records that are no base64"))?;
    if records.is_empty() || records.len() > RECORDS {
        return Err(Broken::Garbage("no records, or more than a payload may hold"));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_encoded_and_decoded_are_unchanged() {
        for length in [1, 2, 3, 4, RECORDS - 1, RECORDS] {
            let records = vec![7; length];
            let payload = encode(&records);
            assert!(is_tunnelled(&payload) && payload.len() == payload.capacity());
            assert_eq!(decode(&payload).unwrap(), records);
            assert_eq!(head(&payload).len(), if length < 4 { 0 } else { length.min(6) });
        }
    }

    #[test]
    fn garbage_is_not_taken_for_records() {
        let long = encode(&[7; RECORDS + 1]);
        let longer = encode(&[7; RECORDS + 3]);
        for payload in ["", "tls", "tls ", "TLS AAAA", "tls A", "tls AAAA\n", &long, &longer] {
            assert!(matches!(decode(payload), Err(Broken::Garbage(_))), "{:?}", payload.get(..9));
        }
    }
}
