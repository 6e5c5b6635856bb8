//! The PROXY protocol, version 2: a proxy before a listener says whose connection it forwards.
//!
//! The header comes before everything else on the connection. Its form is section 2.2 of HAProxy's
//! `proxy-protocol.txt`. Version 1, a line of text, is not read.

use std::net::{IpAddr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, command, family and length.
const FIXED: usize = 16;
/// The largest length that is accepted, in bytes: addresses have at most 216, and the fields behind
/// them some hundred.
const LONGEST: usize = 4096;
/// `PP2_TYPE_CRC32C`.
const CHECKSUM: u8 = 3;

/// The bytes of a header that has not ended.
#[derive(Debug, Default)]
pub(super) struct ProxyHeader(Vec<u8>);

impl ProxyHeader {
    /// Bytes that can be read now without reading beyond the header.
    pub(super) fn missing(&self) -> usize {
        match self.0.get(FIXED - 2..FIXED) {
            Some(&[high, low]) => {
                let length = usize::from(u16::from_be_bytes([high, low])).min(LONGEST);
                (FIXED + length).saturating_sub(self.0.len())
            }
            Some(_) | None => FIXED.saturating_sub(self.0.len()),
        }
    }

    /// Takes bytes, at most the [`missing`](ProxyHeader::missing) ones.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Bytes of memory.
    pub(super) fn held(&self) -> usize {
        self.0.capacity()
    }

    /// The header's meaning once it is complete: the address of the client, or `None` inside where
    /// the connection is the proxy's own or the proxy does not know the address.
    ///
    /// # Errors
    /// The reason for a refusal, known with the first wrong byte.
    pub(super) fn client(&self) -> Result<Option<Option<SocketAddr>>, &'static str> {
        if self.0.iter().zip(SIGNATURE).any(|(byte, wanted)| *byte != wanted) {
            return Err("it sends no header of the PROXY protocol, version 2");
        }
        let Some((&[.., command, family, high, low], rest)) = self.0.split_first_chunk::<FIXED>()
        else {
            return Ok(None);
        };
        let is_forwarded = match command {
            0x20 => false,
            0x21 => true,
            _ => return Err("its PROXY header has another version, or an unknown command"),
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > LONGEST {
            return Err("its PROXY header is too long");
        }
        if rest.len() < length {
            return Ok(None);
        }
        let address = match family {
            _ if !is_forwarded => return Ok(Some(None)),
            // The client's address is not known (AF_UNSPEC), or is a path.
            0x00 | 0x31 => return Ok(Some(None)),
            0x11 => address::<4>(rest),
            0x21 => address::<16>(rest),
            _ => return Err("its PROXY header is about something else than a TCP connection"),
        };
        let (address, fields) = address.ok_or("its PROXY header ends within an address")?;
        self.check_fields(fields)?;
        Ok(Some(Some(address)))
    }

    /// Checks the form of the fields at the header's end, and the checksum where there is one.
    fn check_fields(&self, mut fields: &[u8]) -> Result<(), &'static str> {
        let mut is_checked = false;
        while let [kind, high, low, rest @ ..] = fields {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let (value, behind) =
                rest.split_at_checked(length).ok_or("its PROXY header ends within a field")?;
            if *kind == CHECKSUM {
                if std::mem::replace(&mut is_checked, true) {
                    return Err("its PROXY header has two checksums");
                }
                // The checksum is that of the header with zeros in its place.
                let before = self.0.get(..self.0.len() - rest.len()).unwrap_or_default();
                let zeroed = [before, [0; 4].as_slice(), behind].concat();
                if *value != crc32c(&zeroed).to_be_bytes() {
                    return Err("the checksum of its PROXY header is wrong");
                }
            }
            fields = behind;
        }
        if fields.is_empty() { Ok(()) } else { Err("its PROXY header ends within a field") }
    }
}

/// The source address of `N` bytes of a TCP connection, and the bytes behind all addresses: source,
/// destination, and the ports of both.
fn address<const N: usize>(bytes: &[u8]) -> Option<(SocketAddr, &[u8])>
where
    IpAddr: From<[u8; N]>,
{
    let (source, bytes) = bytes.split_first_chunk::<N>()?;
    let (_, bytes) = bytes.split_first_chunk::<N>()?;
    let (&[high, low, _, _], bytes) = bytes.split_first_chunk::<4>()?;
    Some((SocketAddr::new(IpAddr::from(*source), u16::from_be_bytes([high, low])), bytes))
}

/// CRC32c (RFC 3720 section 12.1).
fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header: command, family, and the bytes behind the length.
    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[command, family], &length, rest].concat()
    }

    /// The result of a header that comes byte by byte.
    fn read(bytes: &[u8]) -> Result<Option<Option<SocketAddr>>, &'static str> {
        let mut header = ProxyHeader::default();
        for byte in bytes {
            assert_eq!(header.client()?, None, "not before its last byte");
            assert!(header.missing() > 0);
            header.push(&[*byte]);
        }
        header.client()
    }

    /// From 203.0.113.7:4711 to 192.0.2.1:12150.
    const TCP4: [u8; 12] = [203, 0, 113, 7, 192, 0, 2, 1, 0x12, 0x67, 0x2f, 0x76];

    fn tcp4(fields: &[u8]) -> Vec<u8> {
        header(0x21, 0x11, &[TCP4.as_slice(), fields].concat())
    }

    fn with_checksum(fields: &[u8]) -> Vec<u8> {
        let mut bytes = tcp4(&[&[CHECKSUM, 0, 4, 0, 0, 0, 0], fields].concat());
        let sum = crc32c(&bytes).to_be_bytes();
        bytes[FIXED + 12 + 3..][..4].copy_from_slice(&sum);
        bytes
    }

    #[test]
    fn proxy_header_names_the_client_of_a_tcp_connection() {
        let client = |bytes: &[u8]| read(bytes).unwrap().unwrap().map(|it| it.to_string());
        assert_eq!(client(&tcp4(&[])).as_deref(), Some("203.0.113.7:4711"));
        let mut tcp6 = [0; 36];
        tcp6[..16].copy_from_slice(&std::net::Ipv6Addr::LOCALHOST.octets());
        tcp6[32..34].copy_from_slice(&80u16.to_be_bytes());
        assert_eq!(client(&header(0x21, 0x21, &tcp6)).as_deref(), Some("[::1]:80"));
        assert_eq!(client(&header(0x20, 0x11, &TCP4)), None, "LOCAL");
        assert_eq!(client(&header(0x20, 0, &[])), None);
        assert_eq!(client(&header(0x21, 0, b"anything")), None, "AF_UNSPEC");
        assert_eq!(client(&header(0x21, 0x31, &[0; 216])), None, "AF_UNIX");
        let fields = [&[4, 0, 0, 0x20, 0, 5][..], b"12345"].concat();
        assert_eq!(client(&tcp4(&fields)).as_deref(), Some("203.0.113.7:4711"));
        assert_eq!(client(&with_checksum(&fields)).as_deref(), Some("203.0.113.7:4711"));
    }

    #[test]
    fn proxy_header_with_a_fault_is_refused_at_its_first_wrong_byte() {
        let mut longest = header(0x21, 0x11, &[]);
        longest[14..].copy_from_slice(&u16::MAX.to_be_bytes());
        let mut changed = with_checksum(&[]);
        changed[FIXED] ^= 1;
        let twice = [&with_checksum(&[])[FIXED + 12..]; 2].concat();
        for bytes in [
            b"\x16\x03\x01".to_vec(),
            b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 12150\r\n".to_vec(),
            header(0x11, 0x11, &TCP4),
            header(0x22, 0x11, &TCP4),
            header(0x21, 0x12, &TCP4),
            header(0x21, 0x51, &TCP4),
            header(0x21, 0x11, &TCP4[..11]),
            header(0x21, 0x21, &[0; 35]),
            longest,
            tcp4(&[4]),
            tcp4(&[4, 0, 9, 0]),
            tcp4(&[CHECKSUM, 0, 2, 0, 0]),
            tcp4(&twice),
            changed,
        ] {
            assert!(read(&bytes).is_err(), "{bytes:?}");
        }
        assert!(read(b"P").is_err());
        assert_eq!(read(&tcp4(&[])[..27]), Ok(None));
    }

    #[test]
    fn crc32c_of_the_example_is_that_of_the_rfc() {
        // RFC 3720 section B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
