//! Signs mails with DKIM (RFC 6376, RFC 8463): receivers learn which domain answers for a mail, and that nobody changed it.
//!
//! Not the feature `dkim` of lettre: its crate `rsa` has an open advisory (RUSTSEC-2023-0071), it reads no PKCS #8 keys,
//! and it recurses once for each character of a header. Not crate `mail-auth`: it needs a DNS resolver and a second mail
//! parser. `ring` is here for TLS already.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

use super::config::DkimConfig;
use crate::codes;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};

/// The signed headers, beside those of mailing lists. RFC 6376 asks for all that a reader sees or a program uses.
const SIGNED_HEADERS: [&str; 14] = [
    "auto-submitted",
    "cc",
    "content-transfer-encoding",
    "content-type",
    "date",
    "feedback-id",
    "from",
    "in-reply-to",
    "message-id",
    "mime-version",
    "references",
    "reply-to",
    "subject",
    "to",
];
const LIST_PREFIX: &str = "list-";
/// Headers that are signed once more than they occur, so that nobody can add one.
const SEALED_HEADERS: [&str; 9] =
    ["from", "reply-to", "to", "cc", "subject", "date", "message-id", "mime-version", "content-type"];
/// The maximum length of a line of the signature.
const FOLD_WIDTH: usize = 72;

/// Signs the mails of one domain.
pub(super) struct DkimSigner {
    domain: String,
    selector: String,
    key: SigningKey,
}

enum SigningKey {
    Rsa(Box<RsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl DkimSigner {
    /// Reads the key.
    ///
    /// # Errors
    /// `mail_dkim_invalid` if the key cannot be read, or if a name is not valid.
    pub(super) fn new(config: &DkimConfig) -> Result<Self> {
        let invalid = |why: String| Error::new(codes::MAIL_DKIM_INVALID, format!("`mail.dkim`: {why}"));
        let Some(domain) = config.ascii_domain() else {
            return Err(invalid(format!("`{}` is not a domain", config.domain)));
        };
        if !config.has_valid_selector() {
            return Err(invalid(format!("`{}` is not a selector", config.selector)));
        }
        let unusable = |why: String| invalid(format!("the key `{}` cannot be used: {why}", config.key_file.display()));
        let pem = fs::read(&config.key_file).map_err(|error| unusable(error.to_string()))?;
        let key = SigningKey::from_pem(&pem).map_err(unusable)?;
        Ok(Self { domain, selector: config.selector.clone(), key })
    }

    /// The message with its signature as the first header.
    ///
    /// # Errors
    /// `mail_dkim_invalid` if the key signs nothing.
    pub(super) fn sign_message(&self, message: &[u8], now: UnixMillis) -> Result<Vec<u8>> {
        let (fields, body) = split_message(message);
        let (mut names, mut signed) = (Vec::new(), Vec::new());
        // Of headers with the same name, verifiers take the last one first.
        for (name, value) in fields.iter().rev().filter(|(name, _)| is_signed(name)) {
            append_relaxed_header(&mut signed, name, value);
            signed.extend_from_slice(b"\r\n");
            names.push(name.as_str());
        }
        names.extend(SEALED_HEADERS);
        let unsigned = self.format_header(&names, &hash_body(body), now.div_euclid(1_000));
        append_relaxed_header(&mut signed, "dkim-signature", unsigned.as_bytes());
        let signature = self.key.sign(&signed)?;
        let header = format!("DKIM-Signature: {unsigned}{}\r\n", fold_text(&STANDARD.encode(signature)));
        Ok([header.as_bytes(), message].concat())
    }

    /// The value of the signature header, up to the signature itself.
    fn format_header(&self, names: &[&str], body_hash: &[u8], seconds: i64) -> String {
        let Self { domain, selector, key } = self;
        let algorithm = key.algorithm();
        let (names, hash) = (fold_names(names), STANDARD.encode(body_hash));
        format!(
            "v=1; a={algorithm}; c=relaxed/relaxed;\r\n d={domain};\r\n s={selector}; t={seconds};\r\n \
             h={names};\r\n bh={hash};\r\n b="
        )
    }
}

impl SigningKey {
    /// Reads the first private key of a PEM file.
    fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let refused = |error: ring::error::KeyRejected| format!("it is not valid ({error})");
        match PrivateKeyDer::from_pem_slice(pem) {
            Ok(PrivateKeyDer::Pkcs8(der)) => {
                let der = der.secret_pkcs8_der();
                match Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
                    Ok(key) => Ok(Self::Ed25519(Box::new(key))),
                    Err(_) => Ok(Self::Rsa(Box::new(RsaKeyPair::from_pkcs8(der).map_err(refused)?))),
                }
            }
            Ok(PrivateKeyDer::Pkcs1(der)) => {
                Ok(Self::Rsa(Box::new(RsaKeyPair::from_der(der.secret_pkcs1_der()).map_err(refused)?)))
            }
            Ok(_) => Err("it is neither an RSA nor an Ed25519 key".into()),
            Err(error) => Err(format!("it is not in PEM form ({error})")),
        }
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "rsa-sha256",
            Self::Ed25519(_) => "ed25519-sha256",
        }
    }

    fn sign(&self, signed: &[u8]) -> Result<Vec<u8>> {
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                match key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed, &mut signature) {
                    Ok(()) => Ok(signature),
                    Err(error) => Err(Error::new(codes::MAIL_DKIM_INVALID, format!("the key signs nothing: {error}"))),
                }
            }
            // RFC 8463 signs the hash, not the text.
            Self::Ed25519(key) => Ok(key.sign(&Sha256::digest(signed)).as_ref().to_vec()),
        }
    }
}

fn is_signed(name: &str) -> bool {
    SIGNED_HEADERS.contains(&name) || name.starts_with(LIST_PREFIX)
}

/// The headers with their names in lower case, and the body.
fn split_message(message: &[u8]) -> (Vec<(String, Vec<u8>)>, &[u8]) {
    let mut fields: Vec<(String, Vec<u8>)> = Vec::new();
    let mut rest = message;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = rest.split_at(end + 1);
        rest = after;
        match line {
            b"\r\n" | b"\n" => break,
            [b' ' | b'\t', ..] => {
                if let Some((_, value)) = fields.last_mut() {
                    value.extend_from_slice(line);
                }
            }
            _ => {
                let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
                let name = String::from_utf8_lossy(&line[..colon]).trim().to_ascii_lowercase();
                fields.push((name, line.get(colon + 1..).unwrap_or_default().to_vec()));
            }
        }
    }
    (fields, rest)
}

/// The relaxed form of a header: its lines are one, and consecutive white space is one space.
fn append_relaxed_header(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.push(b':');
    let words = value.split(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).filter(|word| !word.is_empty());
    for (index, word) in words.enumerate() {
        if index > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(word);
    }
}

/// The hash of a body in its relaxed form, which has no white space at line ends and no empty lines at its end.
fn hash_body(body: &[u8]) -> Vec<u8> {
    let mut hasher = Sha256::new();
    let mut empty_lines = 0;
    for line in body.split(|byte| *byte == b'\n') {
        let line = relax_line(line.strip_suffix(b"\r").unwrap_or(line));
        if line.is_empty() {
            empty_lines += 1;
            continue;
        }
        for _ in 0..std::mem::take(&mut empty_lines) {
            hasher.update(b"\r\n");
        }
        hasher.update(&line);
        hasher.update(b"\r\n");
    }
    hasher.finalize().to_vec()
}

fn relax_line(line: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(line.len());
    let mut has_space = false;
    for byte in line {
        match byte {
            b' ' | b'\t' => has_space = true,
            byte => {
                if std::mem::take(&mut has_space) {
                    out.push(b' ');
                }
                out.push(*byte);
            }
        }
    }
    out
}

/// Joins names with colons, in short lines.
fn fold_names(names: &[&str]) -> String {
    let (mut folded, mut line_len) = (String::new(), 0);
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            folded.push(':');
            if line_len + name.len() > FOLD_WIDTH {
                folded.push_str("\r\n ");
                line_len = 0;
            }
        }
        folded.push_str(name);
        line_len += name.len() + 1;
    }
    folded
}

/// Splits ASCII text into short lines.
fn fold_text(text: &str) -> String {
    let lines = text.as_bytes().chunks(FOLD_WIDTH).map(String::from_utf8_lossy);
    lines.collect::<Vec<_>>().join("\r\n ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ring::signature::{ED25519, KeyPair, UnparsedPublicKey};

    use super::*;

    fn pem(label: &str, der: &[u8]) -> String {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
    }

    fn config(folder: &Path, key: &str) -> DkimConfig {
        let key_file = folder.join("key.pem");
        fs::write(&key_file, key).unwrap();
        DkimConfig { selector: "s1".into(), domain: "bücher.example".into(), key_file }
    }

    #[test]
    fn bodies_and_headers_are_relaxed_as_in_rfc_6376() {
        let mut header = Vec::new();
        append_relaxed_header(&mut header, "b", b" Y\t\r\n\tZ  \r\n");
        assert_eq!(header, b"b:Y Z");
        let relaxed = Sha256::digest(b" C\r\nD E\r\n").to_vec();
        for body in [&b" C \r\nD \t E\r\n\r\n\r\n"[..], b"\tC\r\nD E", b" C\r\nD E\r\n \t\r\n"] {
            assert_eq!(hash_body(body), relaxed);
        }
        assert_eq!(hash_body(b"a\r\n\r\n\r\nb"), Sha256::digest(b"a\r\n\r\n\r\nb\r\n").to_vec());
        for empty in [&b""[..], b"\r\n", b" \r\n\r\n"] {
            assert_eq!(hash_body(empty), Sha256::digest(b"").to_vec());
        }
    }

    #[test]
    fn signature_covers_what_readers_see() {
        let folder = tempfile::tempdir().unwrap();
        let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let signer = DkimSigner::new(&config(folder.path(), &pem("PRIVATE KEY", der.as_ref()))).unwrap();
        let long = "word ".repeat(900);
        let message = format!(
            "X-Note: 1\r\nFrom: a@b.co\r\nSubject:\r\n {long}\r\nList-Unsubscribe: <https://b.co/u>\r\n\r\nText\r\n"
        );
        let bytes = signer.sign_message(message.as_bytes(), 1_700_000_000_123).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let header = text.strip_suffix(&message).expect("the message is not changed");
        assert!(header.lines().all(|line| line.len() <= 100), "{header}");
        let flat = header.replace("\r\n ", "");
        for part in ["a=ed25519-sha256;", "d=xn--bcher-kva.example;", "s=s1;", "t=1700000000;", "c=relaxed/relaxed;"] {
            assert!(flat.contains(part), "{part}: {flat}");
        }
        assert!(flat.contains("h=list-unsubscribe:subject:from:from:reply-to:to:cc:subject:date:"), "{flat}");
        let (start, signature) = header.trim_end().rsplit_once(" b=").unwrap();
        let signature = STANDARD.decode(signature.replace("\r\n ", "")).unwrap();
        let start = start.strip_prefix("DKIM-Signature: ").unwrap();
        let mut signed =
            format!("list-unsubscribe:<https://b.co/u>\r\nsubject:{}\r\nfrom:a@b.co\r\n", long.trim_end()).into_bytes();
        append_relaxed_header(&mut signed, "dkim-signature", format!("{start} b=").as_bytes());
        let SigningKey::Ed25519(key) = &signer.key else { panic!("it is an Ed25519 key") };
        let public = UnparsedPublicKey::new(&ED25519, key.public_key().as_ref());
        public.verify(&Sha256::digest(&signed), &signature).unwrap();
    }

    #[test]
    fn unusable_keys_and_names_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let whole: &[u8] = der.as_ref();
        let good = pem("PRIVATE KEY", whole);
        let cut = pem("PRIVATE KEY", &whole[..40]);
        for (key, fault) in [
            ("", "not in PEM form"),
            ("canary", "not in PEM form"),
            (good.replace("PRIVATE", "PUBLIC").as_str(), "not in PEM form"),
            (good.replace("PRIVATE", "EC PRIVATE").as_str(), "neither an RSA nor an Ed25519 key"),
            (cut.as_str(), "not valid"),
        ] {
            let error = DkimSigner::new(&config(folder.path(), key)).err().expect(fault);
            assert_eq!(error.code(), codes::MAIL_DKIM_INVALID);
            assert!(error.message().contains(fault) && error.hint_text().is_some(), "{fault}: {error}");
            assert!(!error.message().contains("canary"), "{error}");
        }
        let valid = config(folder.path(), &good);
        DkimSigner::new(&valid).unwrap();
        for wrong in [
            DkimConfig { selector: "a b".into(), ..valid.clone() },
            DkimConfig { selector: String::new(), ..valid.clone() },
            DkimConfig { domain: "192.0.2.1".into(), ..valid.clone() },
            DkimConfig { key_file: "/nowhere/key.pem".into(), ..valid },
        ] {
            assert_eq!(DkimSigner::new(&wrong).err().expect("refused").code(), codes::MAIL_DKIM_INVALID);
        }
    }
}
