//! Lists keys in order, and groups them by a delimiter.

use rusqlite::{Connection, params};

use super::super::error::S3ServerError;
use super::buckets;
use super::events::key_from_row;
use afterload_core::clock::UnixMillis;

/// Greater than any key: UTF-8 text never contains this byte.
pub(super) const KEY_UPPER_BOUND: &[u8] = &[0xff];
/// Rows per query while keys are grouped.
const KEY_SCAN_BATCH_ROWS: usize = 256;

/// The parameters of a list.
#[derive(Clone, Debug)]
pub(in super::super) struct KeyQuery {
    pub(in super::super) bucket: String,
    pub(in super::super) prefix: String,
    /// Empty if keys are not grouped.
    pub(in super::super) delimiter: String,
    /// The smallest key that may be listed.
    pub(in super::super) from: Vec<u8>,
    pub(in super::super) max_entries: usize,
}

/// An object in a list.
#[derive(Clone, Debug)]
pub(in super::super) struct KeyRow {
    pub(in super::super) key: String,
    pub(in super::super) etag: String,
    pub(in super::super) size: u64,
    pub(in super::super) modified_at: UnixMillis,
}

/// A page of a list.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct KeyPage {
    pub(in super::super) rows: Vec<KeyRow>,
    pub(in super::super) prefixes: Vec<String>,
    /// The start of the next page, if there is one.
    pub(in super::super) next: Option<Vec<u8>>,
    /// The last key or prefix of this page.
    pub(in super::super) last_entry: String,
}

/// The smallest key after all keys with this prefix; `None` if no such key exists.
pub(in super::super) fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let end = prefix.iter().rposition(|byte| *byte < 0xff)?;
    let mut next = prefix[..=end].to_vec();
    next[end] += 1;
    Some(next)
}

/// The smallest key after `key`.
pub(in super::super) fn after_key(key: &str) -> Vec<u8> {
    let mut next = key.as_bytes().to_vec();
    next.push(0);
    next
}

/// The part of `key` that the delimiter groups into one entry.
pub(in super::super) fn common_prefix<'a>(key: &'a str, prefix: &str, delimiter: &str) -> Option<&'a str> {
    if delimiter.is_empty() {
        return None;
    }
    let at = key.strip_prefix(prefix)?.find(delimiter)?;
    Some(&key[..prefix.len() + at + delimiter.len()])
}

/// Reads one page of a list.
pub(in super::super) fn list_keys(sql: &Connection, wanted: &KeyQuery) -> Result<KeyPage, S3ServerError> {
    let KeyQuery { bucket, prefix, delimiter, from, max_entries: max } = wanted;
    buckets::ensure_bucket_exists(sql, bucket)?;
    let mut page = KeyPage::default();
    if *max == 0 {
        return Ok(page);
    }
    let end = after_prefix(prefix.as_bytes()).unwrap_or_else(|| KEY_UPPER_BOUND.to_vec());
    let mut low = prefix.as_bytes().max(from).to_vec();
    let mut select = sql.prepare_cached(
        "SELECT key, etag, size, modified_at FROM objects WHERE bucket = ?1 AND key >= ?2 AND key < ?3
         ORDER BY key LIMIT ?4",
    )?;
    loop {
        let limit = if delimiter.is_empty() { max - page.rows.len() + 1 } else { KEY_SCAN_BATCH_ROWS };
        let rows = select.query_map(params![bucket, low, end, limit as i64], |row| {
            let size: i64 = row.get(2)?;
            Ok(KeyRow {
                key: key_from_row(row, 0)?,
                etag: row.get(1)?,
                size: size.unsigned_abs(),
                modified_at: row.get(3)?,
            })
        })?;
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        let more = rows.len() == limit;
        for row in rows {
            // The row is still in the batch, but its prefix is already listed.
            if row.key.as_bytes() < low.as_slice() {
                continue;
            }
            if page.rows.len() + page.prefixes.len() == *max {
                page.next = Some(low);
                return Ok(page);
            }
            match common_prefix(&row.key, prefix, delimiter) {
                Some(fold) => {
                    low = after_prefix(fold.as_bytes()).unwrap_or_else(|| KEY_UPPER_BOUND.to_vec());
                    page.last_entry = fold.to_owned();
                    page.prefixes.push(fold.to_owned());
                }
                None => {
                    low = after_key(&row.key);
                    page.last_entry.clone_from(&row.key);
                    page.rows.push(row);
                }
            }
        }
        if !more {
            return Ok(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{after_prefix, common_prefix};

    #[test]
    fn common_prefix_ends_at_first_delimiter() {
        assert_eq!(common_prefix("a/b/c", "", "/"), Some("a/"));
        assert_eq!(common_prefix("a/b/c", "a/", "/"), Some("a/b/"));
        assert_eq!(common_prefix("a/b/c", "a/b/", "/"), None);
        assert_eq!(common_prefix("a//b", "a/", "/"), Some("a//"));
        assert_eq!(common_prefix("a--b", "", "--"), Some("a--"));
        assert_eq!(common_prefix("a/b", "", ""), None);
    }

    #[test]
    fn after_prefix_is_next_greater_key() {
        assert_eq!(after_prefix(b"a/"), Some(b"a0".to_vec()));
        assert_eq!(after_prefix("aÿ".as_bytes()), Some(vec![b'a', 0xc3, 0xc0]));
        assert_eq!(after_prefix(&[b'a', 0xff]), Some(b"b".to_vec()));
        assert_eq!(after_prefix(b""), None);
    }
}
