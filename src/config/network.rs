//! Networks: addresses with a common prefix.

use std::net::IpAddr;

use crate::wire::decimal;

/// All addresses with a common prefix; a single address is a network too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// Bits of the prefix.
    length: u32,
}

impl Network {
    /// Whether the address belongs to it. An IPv4 address in IPv6 form counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4()
            && prefix(address, self.length) == prefix(self.address, self.length)
    }
}

/// A network in the form `ADDRESS` or `ADDRESS/LENGTH`, without bits behind the prefix.
pub(super) fn network(text: &str) -> Result<Network, String> {
    let form = "write \"192.0.2.1\", \"192.0.2.0/24\" or \"2001:db8::/64\"";
    let wrong = || format!("is neither an address nor a network: {form}");
    let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    if address.to_canonical() != address {
        return Err(format!("is an IPv4 address in the form of an IPv6 one: {form}"));
    }
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => bits,
        Some(digits) => decimal(digits).filter(|l| *l <= bits).ok_or_else(wrong)?,
    };
    if prefix(address, length) != prefix(address, bits) {
        return Err(format!("has more bits than its prefix of {length}: {form}"));
    }
    Ok(Network { address, length })
}

/// The bits of an address, those behind the prefix zero.
fn prefix(address: IpAddr, length: u32) -> u128 {
    let bits = match address {
        IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
        IpAddr::V6(ip) => ip.to_bits(),
    };
    bits & !u128::MAX.checked_shr(length).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_contains_the_addresses_with_its_prefix() {
        let contains = |text: &str, ip: &str| network(text).unwrap().contains(ip.parse().unwrap());
        for (text, inside, outside) in [
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("127.0.0.1", "::ffff:127.0.0.1", "::1"),
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.0.2.128/25", "192.0.2.129", "192.0.2.127"),
            ("192.0.2.1/32", "192.0.2.1", "192.0.2.0"),
            ("0.0.0.0/0", "203.0.113.7", "2001:db8::1"),
            ("2001:db8::/64", "2001:db8::ffff:1", "2001:db8:0:1::1"),
            ("::/0", "2001:db8::1", "203.0.113.7"),
            ("::1", "::1", "127.0.0.1"),
        ] {
            assert!(contains(text, inside), "{text} {inside}");
            assert!(!contains(text, outside), "{text} {outside}");
        }
    }

    #[test]
    fn network_of_another_form_is_refused() {
        for text in [
            "",
            "localhost",
            "127.0.0.1:80",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10/8",
            "2001:db8::1/64",
            "::/129",
            "::ffff:127.0.0.1",
            "[::1]",
        ] {
            assert!(network(text).is_err(), "{text}");
        }
    }
}
