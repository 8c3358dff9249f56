//! Tokens in links: proof that we made them, without a record.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

fn mac(secret: &[u8], run: &str) -> Hmac<Sha256> {
    let mac = Hmac::<Sha256>::new_from_slice(secret);
    // HMAC hashes keys that are too long and pads those that are too short.
    let mut mac = mac.expect("HMAC takes keys of any length");
    mac.update(b"watch:");
    mac.update(run.as_bytes());
    mac
}

/// The token that lets a page read this run and nothing else.
pub fn watch_token(secret: &[u8], run: &str) -> String {
    URL_SAFE_NO_PAD.encode(mac(secret, run).finalize().into_bytes())
}

/// True if `token` is the run's. Takes the same time for all wrong ones.
pub(super) fn is_watch_token(secret: &[u8], run: &str, token: &str) -> bool {
    URL_SAFE_NO_PAD.decode(token).is_ok_and(|token| mac(secret, run).verify_slice(&token).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_run_alone() {
        let token = watch_token(b"secret", "A");
        assert!(is_watch_token(b"secret", "A", &token));
        assert!(!is_watch_token(b"secret", "B", &token));
        assert!(!is_watch_token(b"other", "A", &token));
        assert!(!is_watch_token(b"secret", "A", &token[1..]));
        assert!(!is_watch_token(b"secret", "A", ""));
    }
}
