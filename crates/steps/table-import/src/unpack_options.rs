//! The options of workbooks and archives.

use schemars::JsonSchema;
use serde::Deserialize;

use afterload_core::units::ByteSize;

/// A sheet of a workbook.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SheetSpec {
    /// Its place, from 1.
    Number(u64),
    /// Its name.
    Name(String),
}

/// How far archives and workbooks may unpack. Files that unpack further are refused.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UnpackOptions {
    /// The most unpacked bytes of a gzip archive, of an entry, or of a part of a workbook.
    pub max_size: ByteSize,
    /// The most unpacked bytes per packed byte, looked at past 64 MB.
    #[schemars(range(min = 1))]
    pub max_ratio: u64,
    /// The most memory for the texts that the cells of a workbook share.
    pub max_shared_text: ByteSize,
}

impl Default for UnpackOptions {
    fn default() -> Self {
        Self { max_size: ByteSize(16 << 30), max_ratio: 200, max_shared_text: ByteSize(64 << 20) }
    }
}
