//! Signatures by [Standard Webhooks](https://www.standardwebhooks.com). They prove to a receiver with the secret that
//! this service sent the call, and when.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use super::config::WebhooksConfig;
use crate::codes;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};
use afterload_core::keyring::{Keyring, TokenPurpose};

/// The prefix of a signature.
const SIGNATURE_PREFIX: &str = "v1,";
/// The maximum difference between the signing time and the receiver's clock.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// Signs outgoing webhooks and verifies incoming ones. Cheap to clone.
///
/// It holds one key, or several while `secret_key` is being replaced, newest first.
#[derive(Clone)]
pub struct WebhookSigner(Arc<[Vec<u8>]>);

impl WebhookSigner {
    /// Uses the configured secret, or those derived from the keys of the service.
    pub fn new(config: &WebhooksConfig, keyring: &Keyring) -> Self {
        Self(match config.secret.as_ref().and_then(WebhooksConfig::decode_secret) {
            Some(secret) => [secret].into(),
            None => keyring.derive_keys(TokenPurpose::WebhookSigning).into_iter().map(Vec::from).collect(),
        })
    }

    /// Uses the secret of the sender of this event; `None` if no sender may publish it by webhook.
    pub fn verifier(config: &WebhooksConfig, event: &str) -> Option<Self> {
        config.events.get(event).and_then(WebhooksConfig::decode_secret).map(|key| Self([key].into()))
    }

    /// The secret in the form that receivers configure.
    pub fn encoded_secret(&self) -> String {
        format!("{}{}", WebhooksConfig::SECRET_PREFIX, STANDARD.encode(&self.0[0]))
    }

    /// Computes the `webhook-signature` of a message. `timestamp` is in seconds since 1970. It holds a signature for
    /// each key, so that receivers can change to the new secret at any time.
    pub fn sign_message(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let sign = |key: &Vec<u8>| {
            let mac = message_mac(key, id, timestamp, body).finalize().into_bytes();
            format!("{SIGNATURE_PREFIX}{}", STANDARD.encode(mac))
        };
        self.0.iter().map(sign).collect::<Vec<_>>().join(" ")
    }

    /// Verifies the signature of a message and its age at the time `now`. `timestamp` is in seconds since 1970.
    /// `signatures` is the value of `webhook-signature`; it holds several signatures while a sender changes its secret.
    ///
    /// # Errors
    /// `webhook_invalid`, `webhook_expired`
    pub fn verify_message(
        &self,
        id: &str,
        timestamp: i64,
        body: &[u8],
        signatures: &str,
        now: UnixMillis,
    ) -> Result<()> {
        let macs: Vec<_> = self.0.iter().map(|key| message_mac(key, id, timestamp, body)).collect();
        let mut signed =
            signatures.split(' ').filter_map(|one| STANDARD.decode(one.strip_prefix(SIGNATURE_PREFIX)?).ok());
        // Compares in constant time.
        if !signed.any(|signature| macs.iter().any(|mac| mac.clone().verify_slice(&signature).is_ok())) {
            return Err(Error::new(codes::WEBHOOK_INVALID, "the signature of the webhook is not that of its sender")
                .with_hint("it is made with the secret in `webhooks.events`, over the body as it arrives"));
        }
        let age = (now / 1000).abs_diff(timestamp);
        if age > MAX_CLOCK_SKEW.as_secs() {
            return Err(Error::new(codes::WEBHOOK_EXPIRED, format!("the webhook was signed {age} seconds from now"))
                .with_hint(format!(
                    "sign it anew when it is sent; at most {} seconds may lie between",
                    MAX_CLOCK_SKEW.as_secs()
                )));
        }
        Ok(())
    }

    /// Derives a message id from `key`: the same key gives the same id, and the id does not reveal the key.
    pub fn message_id(key: &str) -> String {
        format!("msg_{}", hex::encode(&Sha256::digest(key)[..16]))
    }
}

fn message_mac(key: &[u8], id: &str, timestamp: i64, body: &[u8]) -> Hmac<Sha256> {
    // HMAC hashes longer keys and pads shorter ones.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    mac
}

impl fmt::Debug for WebhookSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Webhooks")
    }
}
