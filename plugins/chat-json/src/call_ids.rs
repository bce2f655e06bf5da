//! Ids of tool calls that another provider made.
//!
//! Mistral's prompt encodings accept nine letters and digits; OpenAI's ids are longer, others are
//! UUIDs. A history that began elsewhere goes on here when each foreign id has one stand-in, the
//! same in the call and in its result and the same in every request.

use protocol::Message;

const ID_CHARS: usize = 9;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Replaces foreign ids in calls and results; ids that fit stay.
pub(crate) fn settle_call_ids(messages: &mut [Message]) {
    for message in messages {
        match message {
            Message::Assistant { tool_calls, .. } => {
                for call in tool_calls {
                    settle(&mut call.id);
                }
            }
            Message::Tool { call_id: Some(id), .. } => settle(id),
            _ => {}
        }
    }
}

/// The id that a call of this id has here.
pub(crate) fn settled(id: &str) -> String {
    let mut id = id.to_owned();
    settle(&mut id);
    id
}

fn settle(id: &mut String) {
    let fits = id.len() == ID_CHARS && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    // An empty id and the stand-in for a missing one name nothing: the text room refuses them.
    if !fits && !id.is_empty() && id != "null" {
        *id = stand_in(id);
    }
}

/// Nine letters and digits from a 64-bit hash that never changes: FNV-1a, then SplitMix64's
/// finaliser, because ids that differ in their last character only must differ everywhere.
fn stand_in(id: &str) -> String {
    let mut hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    (0..ID_CHARS)
        .map(|_| {
            let digit = (hash % 62) as usize;
            hash /= 62;
            char::from(ALPHABET[digit])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn foreign_ids_get_the_same_stand_in_for_ever() {
        assert_eq!(
            stand_in("call_abcdefghijklmnopqrstuvwx"),
            stand_in("call_abcdefghijklmnopqrstuvwx")
        );
        expect_test::expect!["tfBysK4gS"].assert_eq(&stand_in("call_abcdefghijklmnopqrstuvwx"));
    }

    #[test]
    fn ids_that_fit_stay_and_missing_ones_are_not_invented() {
        for id in ["D681PevKs", "000000000", "null", ""] {
            let mut settled = id.to_owned();
            settle(&mut settled);
            assert_eq!(settled, id);
        }
    }

    #[test]
    fn neighbouring_ids_have_different_stand_ins() {
        let stand_ins: HashSet<_> = (0..20_000).map(|n| stand_in(&format!("call_{n}"))).collect();
        assert_eq!(stand_ins.len(), 20_000);
        assert!(stand_ins.iter().all(|id| {
            id.len() == ID_CHARS && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
        }));
    }
}
