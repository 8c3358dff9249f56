//! Reads the segments of a JPEG up to its end marker.

use super::jpeg_colors::{ColorMarkers, JpegColors};
use super::jpeg_coverage::ScanCoverage;
use super::{ByteCursor, MAX_PROFILE_BYTES, ParsedHeader};
use crate::errors;
use afterload_core::error::Result;
use afterload_media_type::{PixelSize, read_jpeg_frame_size};

const JPEG_NAME: &str = "JPEG";
/// Limits the scans of a progressive file. Encoders write about ten. Each scan costs a pass over the whole picture, but
/// needs only a few bytes of the file.
const MAX_JPEG_SCANS: u32 = 100;
const ICC_SIGNATURE: &[u8] = b"ICC_PROFILE\0";

/// The components of a JPEG and their coding.
#[derive(Clone, Debug)]
pub struct JpegFrame {
    /// A progressive decoder keeps all coefficients until the last scan.
    pub progressive: bool,
    /// The meaning of the components.
    pub colors: JpegColors,
    /// The identifier of each component.
    identifiers: Vec<u8>,
    /// The horizontal and vertical sampling factors of each component.
    sampling: Vec<(u8, u8)>,
}

impl JpegFrame {
    /// Returns the bytes that decoding takes at a scale of `eighths`/8.
    pub fn decoding_bytes(&self, size: PixelSize, eighths: u32) -> u64 {
        let most = |of: fn(&(u8, u8)) -> u8| u64::from(self.sampling.iter().map(of).max().unwrap_or(1).max(1));
        let (across, down) = (most(|sampling| sampling.0), most(|sampling| sampling.1));
        let units = u64::from(size.width).div_ceil(8 * across) * u64::from(size.height).div_ceil(8 * down);
        let blocks: u64 = self.sampling.iter().map(|(h, v)| units * u64::from(*h) * u64::from(*v)).sum();
        let eighths = u64::from(eighths);
        let planes = blocks * eighths * eighths;
        let coefficients = if self.progressive { blocks * 128 } else { 0 };
        let output = size.pixel_count() * self.sampling.len() as u64 * eighths * eighths / 64;
        planes + coefficients + output
    }
}

pub fn inspect_jpeg(bytes: &[u8]) -> Result<ParsedHeader> {
    let mut cursor = ByteCursor::new(bytes, 2);
    let mut found = ParsedHeader::new(PixelSize::new(0, 0), 0);
    let (mut profile, mut markers) = (ProfileChunks::default(), ColorMarkers::default());
    // If the file ends too early, the header parts before its end are still checked.
    let walked = walk_segments(&mut cursor, &mut found, &mut profile, &mut markers);
    if let Some(Err(error)) = walked {
        return Err(error);
    }
    match &mut found.frame {
        Some(frame) => frame.colors = markers.choose_colors(&frame.identifiers),
        None if walked.is_some() => return Err(errors::image_invalid(JPEG_NAME, "it holds no picture")),
        None => return Err(errors::image_truncated(JPEG_NAME)),
    }
    found.complete = walked.is_some();
    (found.profile, found.broken_profile) = profile.assemble_profile();
    Ok(found)
}

/// Returns `None` if the file ends before its end marker, or if the marker comes before the last scan.
fn walk_segments(
    cursor: &mut ByteCursor<'_>,
    found: &mut ParsedHeader,
    profile: &mut ProfileChunks,
    markers: &mut ColorMarkers,
) -> Option<Result<()>> {
    let (mut scans, mut coverage) = (0, ScanCoverage::default());
    loop {
        let marker = next_marker(cursor)?;
        match marker {
            0x01 | 0xd0..=0xd8 => continue,
            0xd9 => return (found.frame.is_none() || coverage.is_complete()).then_some(Ok(())),
            _ => {}
        }
        let length = usize::from(cursor.read_u16_be()?);
        let Some(length) = length.checked_sub(2) else {
            return Some(Err(errors::image_invalid(JPEG_NAME, "a segment is shorter than its own length")));
        };
        let segment = cursor.take_bytes(length)?;
        match marker {
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                if let Err(error) = read_frame(marker, segment, found) {
                    return Some(Err(error));
                }
            }
            0xe0 | 0xee => markers.read_segment(marker, segment),
            0xe1 if segment.starts_with(b"Exif\0\0") && found.exif.is_none() => found.exif = Some(segment.to_vec()),
            0xe2 if segment.starts_with(ICC_SIGNATURE) => profile.add_chunk(&segment[ICC_SIGNATURE.len()..]),
            0xda => {
                scans += 1;
                if scans > MAX_JPEG_SCANS {
                    return Some(Err(errors::image_too_large(format!(
                        "the {JPEG_NAME} has more than {MAX_JPEG_SCANS} scans"
                    ))));
                }
                if let Some(frame) = &found.frame {
                    coverage.add_scan(segment, &frame.identifiers, frame.progressive);
                }
                skip_scan(cursor)?;
            }
            _ => {}
        }
    }
}

/// Returns the code of the next marker. It skips bytes between segments, as all readers do.
fn next_marker(cursor: &mut ByteCursor<'_>) -> Option<u8> {
    loop {
        let rest = cursor.bytes.get(cursor.at..)?;
        cursor.at += memchr::memchr(0xff, rest)? + 1;
        while *cursor.bytes.get(cursor.at)? == 0xff {
            cursor.at += 1;
        }
        match cursor.read_u8()? {
            0 => {}
            marker => return Some(marker),
        }
    }
}

/// Skips to the first marker that does not belong to the scan.
fn skip_scan(cursor: &mut ByteCursor<'_>) -> Option<()> {
    loop {
        let rest = cursor.bytes.get(cursor.at..)?;
        let at = cursor.at + memchr::memchr(0xff, rest)?;
        match *cursor.bytes.get(at + 1)? {
            0 | 0xd0..=0xd7 => cursor.at = at + 2,
            0xff => cursor.at = at + 1,
            _ => {
                cursor.at = at;
                return Some(());
            }
        }
    }
}

fn read_frame(marker: u8, segment: &[u8], found: &mut ParsedHeader) -> Result<()> {
    let short = || errors::image_invalid(JPEG_NAME, "its frame header is too short");
    let coding = match marker {
        0xc0..=0xc2 => "",
        0xc3 => "without loss",
        0xc9..=0xcb => "with arithmetic coding",
        _ => "in a hierarchy or without loss",
    };
    if !coding.is_empty() {
        return Err(errors::image_unsupported(format!("the file is a {JPEG_NAME} coded {coding}")));
    }
    if found.frame.is_some() {
        return Err(errors::image_invalid(JPEG_NAME, "it has two frame headers"));
    }
    let bits = *segment.first().ok_or_else(short)?;
    if bits != 8 {
        return Err(errors::image_unsupported(format!("the file is a {JPEG_NAME} with {bits} bits a channel")));
    }
    found.stored = read_jpeg_frame_size(segment).ok_or_else(short)?;
    if found.stored.height == 0 {
        return Err(errors::image_unsupported(format!("the file is a {JPEG_NAME} that names its height at its end")));
    }
    let components = *segment.get(5).ok_or_else(short)?;
    if !matches!(components, 1 | 3 | 4) {
        return Err(errors::image_unsupported(format!("the file is a {JPEG_NAME} with {components} channels")));
    }
    let listed = segment.get(6..).unwrap_or_default().as_chunks::<3>().0.iter().take(components.into());
    let (identifiers, sampling): (Vec<_>, Vec<_>) =
        listed.map(|[identifier, sampling, _]| (*identifier, (sampling >> 4, sampling & 15))).unzip();
    if sampling.len() != usize::from(components) {
        return Err(short());
    }
    if sampling.iter().any(|(h, v)| !(1..=4).contains(h) || !(1..=4).contains(v)) {
        return Err(errors::image_invalid(JPEG_NAME, "a channel's sampling is out of range"));
    }
    // The segments that tell the colors may follow.
    found.frame = Some(JpegFrame { progressive: marker == 0xc2, colors: JpegColors::Gray, identifiers, sampling });
    Ok(())
}

/// A color profile in up to 255 numbered segments.
#[derive(Default)]
struct ProfileChunks {
    chunks: Vec<(u8, Vec<u8>)>,
    size: usize,
    broken: bool,
}

impl ProfileChunks {
    fn add_chunk(&mut self, piece: &[u8]) {
        match piece {
            [number, _, data @ ..] if self.size + data.len() <= MAX_PROFILE_BYTES && self.chunks.len() < 255 => {
                self.size += data.len();
                self.chunks.push((*number, data.to_vec()));
            }
            _ => self.broken = true,
        }
    }

    /// Returns the profile, and whether there is an unreadable one.
    fn assemble_profile(mut self) -> (Option<Vec<u8>>, bool) {
        self.chunks.sort_by_key(|(number, _)| *number);
        let in_order = self.chunks.iter().zip(1u8..).all(|((number, _), expected)| *number == expected);
        if self.broken || !in_order {
            return (None, true);
        }
        if self.chunks.is_empty() {
            return (None, false);
        }
        (Some(self.chunks.into_iter().flat_map(|(_, data)| data).collect()), false)
    }
}
