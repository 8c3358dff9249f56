//! Digests of a blob: its ETag, and the checksums that a client sends.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::{S3Error, S3ErrorCode, S3Result};

use super::error::s3_error;

/// The algorithms, in the spelling of headers such as `x-amz-checksum-crc32`.
pub(super) const CHECKSUM_ALGORITHMS: [&str; 5] = ["crc32", "crc32c", "crc64nvme", "sha1", "sha256"];

/// Checksums of one blob in base64, by algorithm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct BlobChecksums(BTreeMap<String, String>);

impl BlobChecksums {
    pub(super) fn from_json(text: &str) -> Self {
        Self(serde_json::from_str(text).unwrap_or_default())
    }

    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    pub(super) fn get(&self, algorithm: &str) -> Option<String> {
        self.0.get(algorithm).cloned()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Sets the five checksum fields of a response. s3s has no common type for them.
macro_rules! fill_checksums {
    ($output:expr, $checksums:expr) => {{
        $output.checksum_crc32 = $checksums.get("crc32");
        $output.checksum_crc32c = $checksums.get("crc32c");
        $output.checksum_crc64nvme = $checksums.get("crc64nvme");
        $output.checksum_sha1 = $checksums.get("sha1");
        $output.checksum_sha256 = $checksums.get("sha256");
    }};
}
/// Takes the five checksum fields of a request, by algorithm.
macro_rules! take_checksums {
    ($input:expr) => {
        [
            ("crc32", $input.checksum_crc32.take()),
            ("crc32c", $input.checksum_crc32c.take()),
            ("crc64nvme", $input.checksum_crc64nvme.take()),
            ("sha1", $input.checksum_sha1.take()),
            ("sha256", $input.checksum_sha256.take()),
        ]
    };
}
pub(super) use {fill_checksums, take_checksums};

/// The length and digests that a client announces for a body.
#[derive(Clone, Debug, Default)]
pub(super) struct BodyExpectation {
    /// In bytes.
    pub(super) length: Option<u64>,
    md5: Option<Vec<u8>>,
    checksums: BTreeMap<&'static str, String>,
    /// True if no client compares the ETag with the MD5 of the body.
    pub(super) skip_md5: bool,
    /// Algorithms whose checksums arrive after the body.
    pub(super) trailing_algorithms: Vec<&'static str>,
}

impl BodyExpectation {
    pub(super) fn expect_md5(&mut self, base64: Option<&str>) -> S3Result<()> {
        let Some(base64) = base64 else { return Ok(()) };
        let decoded = BASE64_STANDARD.decode(base64).ok().filter(|bytes| bytes.len() == 16);
        self.md5 = Some(decoded.ok_or_else(|| s3_error(S3ErrorCode::InvalidDigest, "Content-MD5 is not an MD5."))?);
        Ok(())
    }

    pub(super) fn expect_checksum(&mut self, algorithm: &'static str, base64: String) {
        self.checksums.insert(algorithm, base64);
    }

    /// Starts the digests that the expectation needs.
    pub(super) fn start_digests(&self) -> BodyDigests {
        let wants = |algorithm| self.checksums.contains_key(algorithm) || self.trailing_algorithms.contains(&algorithm);
        BodyDigests {
            etag: match self.skip_md5 && self.md5.is_none() {
                true => EtagDigest::Crc(Box::new((Crc64Nvme::new(), Crc32c::new())), 0),
                false => EtagDigest::Md5(Md5::new()),
            },
            crc32: wants("crc32").then(Crc32::new),
            crc32c: wants("crc32c").then(Crc32c::new),
            crc64nvme: wants("crc64nvme").then(Crc64Nvme::new),
            sha1: wants("sha1").then(Sha1::new),
            sha256: wants("sha256").then(Sha256::new),
        }
    }

    /// Checks the length, MD5 and checksums that the client announced.
    pub(super) fn verify_body(&self, size: u64, md5: &str, checksums: &BlobChecksums) -> S3Result<()> {
        if self.length.is_some_and(|length| length != size) {
            return Err(S3ErrorCode::IncompleteBody.into());
        }
        let bad = |what: &str| -> S3Error {
            s3_error(S3ErrorCode::BadDigest, format!("The body does not match the {what} that came with it."))
        };
        if self.md5.as_ref().is_some_and(|expected| hex::encode(expected) != md5) {
            return Err(bad("Content-MD5"));
        }
        for (algorithm, expected) in &self.checksums {
            if checksums.0.get(*algorithm) != Some(expected) {
                return Err(bad(algorithm));
            }
        }
        Ok(())
    }
}

/// The digest behind the ETag. Equal bytes have equal ETags.
enum EtagDigest {
    Md5(Md5),
    /// Takes a tenth of the time of MD5: two checksums and the lowest 32 bits of the length.
    Crc(Box<(Crc64Nvme, Crc32c)>, u32),
}

impl EtagDigest {
    fn update(&mut self, chunk: &[u8]) {
        match self {
            Self::Md5(md5) => md5.update(chunk),
            Self::Crc(checks, length) => {
                checks.0.update(chunk);
                checks.1.update(chunk);
                *length = length.wrapping_add(chunk.len() as u32);
            }
        }
    }

    /// Returns 32 hexadecimal digits.
    fn finish(self) -> String {
        match self {
            Self::Md5(md5) => hex::encode(md5.finalize()),
            Self::Crc(checks, length) => {
                let (long, short) = *checks;
                [&long.finalize()[..], &short.finalize(), &length.to_be_bytes()].map(hex::encode).concat()
            }
        }
    }
}

/// Incremental digests of a body.
pub(super) struct BodyDigests {
    etag: EtagDigest,
    crc32: Option<Crc32>,
    crc32c: Option<Crc32c>,
    crc64nvme: Option<Crc64Nvme>,
    sha1: Option<Sha1>,
    sha256: Option<Sha256>,
}

impl BodyDigests {
    pub(super) fn update(&mut self, chunk: &[u8]) {
        fn update_if_present<D: s3s::crypto::Checksum>(digest: &mut Option<D>, chunk: &[u8]) {
            if let Some(digest) = digest {
                digest.update(chunk);
            }
        }
        self.etag.update(chunk);
        update_if_present(&mut self.crc32, chunk);
        update_if_present(&mut self.crc32c, chunk);
        update_if_present(&mut self.crc64nvme, chunk);
        update_if_present(&mut self.sha1, chunk);
        update_if_present(&mut self.sha256, chunk);
    }

    /// Returns the digest of the ETag in hexadecimal, and the checksums.
    pub(super) fn finish(self) -> (String, BlobChecksums) {
        fn insert_digest<D: s3s::crypto::Checksum>(all: &mut BlobChecksums, algorithm: &str, digest: Option<D>) {
            if let Some(digest) = digest {
                all.0.insert(algorithm.to_owned(), BASE64_STANDARD.encode(digest.finalize()));
            }
        }
        let mut all = BlobChecksums::default();
        insert_digest(&mut all, "crc32", self.crc32);
        insert_digest(&mut all, "crc32c", self.crc32c);
        insert_digest(&mut all, "crc64nvme", self.crc64nvme);
        insert_digest(&mut all, "sha1", self.sha1);
        insert_digest(&mut all, "sha256", self.sha256);
        (self.etag.finish(), all)
    }
}

/// The ETag of a multipart object: the MD5 of the MD5s of its parts, and their number.
pub(super) fn multipart_etag<'a>(md5s: impl ExactSizeIterator<Item = &'a str>) -> String {
    let count = md5s.len();
    let mut all = Md5::new();
    for md5 in md5s {
        all.update(&hex::decode(md5).unwrap_or_default());
    }
    format!("{}-{count}", hex::encode(all.finalize()))
}

#[cfg(test)]
mod tests {
    use super::{BodyExpectation, multipart_etag};

    #[test]
    fn multipart_etag_equals_that_of_s3() {
        // Two parts, `a` and `b`, computed with: (md5 -b a; md5 -b b) | md5.
        let parts = ["0cc175b9c0f1b6a831c399e269772661", "92eb5ffee6ae2fec3ad71c777531578f"];
        assert_eq!(multipart_etag(parts.into_iter()), "96e024ba2074fe77e8e965ba43a704be-2");
    }

    #[test]
    fn body_mismatch_is_rejected() {
        let mut expected = BodyExpectation::default();
        expected.expect_md5(Some("CY9rzUYh03PK3k6DJie09g==")).unwrap();
        expected.expect_checksum("crc32", "2H9+DA==".to_owned());
        let mut right = expected.start_digests();
        right.update(b"test");
        let (md5, checksums) = right.finish();
        assert!(expected.verify_body(4, &md5, &checksums).is_ok());
        let mut wrong = expected.start_digests();
        wrong.update(b"tesT");
        let (md5, checksums) = wrong.finish();
        assert_eq!(expected.verify_body(4, &md5, &checksums).unwrap_err().code().as_str(), "BadDigest");
        assert_eq!(expected.expect_md5(Some("short")).unwrap_err().code().as_str(), "InvalidDigest");
    }

    #[test]
    fn skip_md5_uses_cheaper_etag() {
        let name = |expected: &BodyExpectation, bytes: &[u8]| {
            let mut digests = expected.start_digests();
            bytes.chunks(3).for_each(|chunk| digests.update(chunk));
            digests.finish().0
        };
        let any = BodyExpectation { skip_md5: true, ..BodyExpectation::default() };
        assert_eq!(name(&any, b"123456789"), "ae8b14860a799888e306928300000009", "the check values of both checksums");
        assert_eq!(name(&BodyExpectation::default(), b"123456789"), "25f9e794323b453885f5181f1b624d0b");
        let mut asked = any;
        asked.expect_md5(Some("1B2M2Y8AsgTpgAmY7PhCfg==")).unwrap();
        assert_eq!(name(&asked, b""), "d41d8cd98f00b204e9800998ecf8427e");
    }
}
