//! `zonda key new`: a key that is shown once, and the lines of configuration that know it.

use std::fs::File;
use std::io::{Read, Write};

use firmware_config::ClientConfig;
use sha2::{Digest, Sha256};

use crate::error::AssembleError;

const KEY_BYTES: usize = 32;

/// Writes a fresh key to `person`, and to `output` the entry with its hash, which may be appended
/// to a configuration file: the key itself is nowhere kept.
///
/// Errors: a name that no client can have.
pub(crate) fn new(
    name: &str,
    person: &mut dyn Write,
    output: &mut dyn Write,
) -> Result<(), AssembleError> {
    if !ClientConfig::is_name(name) {
        let message = format!(
            "{name:?} cannot be a client's name: take 1 to 64 letters, digits, _ . or -, not \
             beginning with token- or cert-"
        );
        return Err(AssembleError::Input { message });
    }
    let mut random = [0; KEY_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let key = format!("zonda-{}", hex(&random));
    writeln!(person, "The key of {name}, shown this once (the lines below hold only its hash):")?;
    writeln!(person, "{key}")?;
    writeln!(output, "[[clients]]")?;
    writeln!(output, "name = \"{name}\"")?;
    writeln!(output, "key_sha256 = \"{}\"", hex(&Sha256::digest(&key)))?;
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(name: &str) -> (String, String) {
        let (mut person, mut output) = (Vec::new(), Vec::new());
        new(name, &mut person, &mut output).unwrap();
        (String::from_utf8(person).unwrap(), String::from_utf8(output).unwrap())
    }

    #[test]
    fn a_key_is_shown_to_the_person_and_its_hash_written_down() {
        let (person, output) = fresh("plc7");
        let key = person.lines().nth(1).unwrap();
        assert_eq!(key.len(), "zonda-".len() + 2 * KEY_BYTES);
        let digest = hex(&Sha256::digest(key));
        assert_eq!(output, format!("[[clients]]\nname = \"plc7\"\nkey_sha256 = \"{digest}\"\n"));
        assert_ne!(fresh("plc7").0, person, "each is another one");
    }

    #[test]
    fn a_name_that_no_client_can_have_is_refused() {
        for name in ["", "a b", "a/b", "*", "token-1", &"x".repeat(65)] {
            assert!(new(name, &mut Vec::new(), &mut Vec::new()).is_err(), "{name:?}");
        }
    }
}
