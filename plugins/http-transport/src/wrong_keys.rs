//! Who shows one wrong key after the other has to wait.
//!
//! The wait is before a key is compared, so that nothing is learned while it lasts, not even from a
//! right one. A web proxy in front of this box makes all of its clients one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Wrong keys of one address that are answered at once, in each [`WINDOW`].
const WRONG_KEYS_MAX: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);

/// Addresses that are remembered; the one that was wrong longest ago makes room.
const ADDRESSES_MAX: usize = 1024;

/// The addresses that wrong keys came from.
#[derive(Debug, Default)]
pub(crate) struct WrongKeys(Mutex<HashMap<Option<IpAddr>, Vec<Instant>>>);

impl WrongKeys {
    /// How long this address has to wait before its next key is looked at; `None` for now.
    /// `None` as the address is a program on this box, by its socket.
    pub(crate) fn wait(&self, address: Option<IpAddr>, now: Instant) -> Option<Duration> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let times = known.get_mut(&origin(address))?;
        times.retain(|time| now.saturating_duration_since(*time) < WINDOW);
        let oldest = times.first().filter(|_| times.len() >= WRONG_KEYS_MAX)?;
        Some((*oldest + WINDOW).saturating_duration_since(now))
    }

    pub(crate) fn note(&self, address: Option<IpAddr>, now: Instant) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let address = origin(address);
        if known.len() >= ADDRESSES_MAX && !known.contains_key(&address) {
            let longest_ago = known.iter().min_by_key(|(_, times)| times.last().copied());
            if let Some(longest_ago) = longest_ago.map(|(address, _)| *address) {
                known.remove(&longest_ago);
            }
        }
        let times = known.entry(address).or_default();
        // Requests that were let in before the limit was reached may end behind it.
        if times.len() < WRONG_KEYS_MAX {
            times.push(now);
        }
    }
}

/// One customer's network: a whole /64 of IPv6 is one machine's to choose from.
fn origin(address: Option<IpAddr>) -> Option<IpAddr> {
    match address?.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            Some(IpAddr::V6(Ipv6Addr::from_bits(network)))
        }
        address => Some(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn the_sixth_wrong_key_of_a_minute_waits_for_the_first_to_be_a_minute_old() {
        let (keys, start) = (WrongKeys::default(), Instant::now());
        let guesser = address("192.0.2.7");
        for second in 0..5 {
            let now = start + Duration::from_secs(second);
            assert_eq!(keys.wait(guesser, now), None);
            keys.note(guesser, now);
        }
        let later = start + Duration::from_secs(10);
        assert_eq!(keys.wait(guesser, later), Some(Duration::from_secs(50)));
        assert_eq!(keys.wait(address("192.0.2.8"), later), None, "others do not wait");
        assert_eq!(keys.wait(None, later), None);
        let minute = start + WINDOW;
        assert_eq!(keys.wait(guesser, minute), None);
        keys.note(guesser, minute);
        assert_eq!(keys.wait(guesser, minute), Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_network_is_one_origin() {
        let cases = [
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::ffff:192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
        ];
        for (a, b, same) in cases {
            assert_eq!(origin(address(a)) == origin(address(b)), same, "{a} {b}");
        }
    }

    #[test]
    fn many_addresses_take_no_more_than_their_room() {
        let (keys, start) = (WrongKeys::default(), Instant::now());
        for number in 0..3 * ADDRESSES_MAX as u32 {
            let now = start + Duration::from_millis(u64::from(number));
            keys.note(Some(IpAddr::from(number.to_be_bytes())), now);
        }
        let known = keys.0.lock().unwrap();
        assert_eq!(known.len(), ADDRESSES_MAX);
        let latest = (3 * ADDRESSES_MAX as u32 - 1).to_be_bytes();
        assert!(known.contains_key(&Some(IpAddr::from(latest))));
    }
}
