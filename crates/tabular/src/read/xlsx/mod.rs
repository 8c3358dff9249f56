//! Reads workbooks (XLSX) row by row. Only the texts that cells share, the styles, and the current row stay in memory.
//!
//! Not crate `calamine`: it holds all shared texts without a limit, turns numbers into floating point, and cannot be stopped
//! inside of an entry that unpacks to gigabytes.

mod cell_number;
mod cell_style;
mod shared_texts;
mod sheet_rows;
mod xml;

use std::fs::File;
use std::io::BufReader;

use quick_xml::events::Event;
use zip::read::ZipFile;

pub use sheet_rows::{RowShape, SheetContext, SheetRows};

use super::unpack::{UnpackLimits, ZipFileArchive, open_entry};
use crate::codes;
use afterload_core::error::{Error, Result};
use cell_number::DateSystem;
use cell_style::read_styles;
use shared_texts::SharedTexts;
use xml::{PartReader, find_attribute, invalid_workbook};

/// The most sheets that a workbook may have, and the most relations of one part.
const MAX_PARTS: usize = 10_000;
/// The most sheets that a message names.
const MAX_NAMED_SHEETS: usize = 20;
/// The largest part beside sheets and shared texts. What is kept of it stays in memory.
const MAX_SMALL_PART_BYTES: u64 = 64 << 20;
const ROOT_RELATIONS: &str = "_rels/.rels";

/// The bytes of an entry of the archive.
pub type EntryBytes<'a> = ZipFile<'a, BufReader<File>>;

/// A sheet to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SheetChoice {
    /// The first one that is not hidden.
    First,
    /// The one at this place, from 1.
    Number(u64),
    /// The one of this name.
    Name(String),
}

/// The limits of a workbook.
#[derive(Clone, Copy, Debug)]
pub struct WorkbookLimits {
    /// How far each part may unpack.
    pub unpack: UnpackLimits,
    /// The memory that shared texts may take.
    pub shared_text: u64,
}

/// An open workbook with the chosen sheet.
pub struct Workbook {
    archive: ZipFileArchive,
    context: SheetContext,
    limits: WorkbookLimits,
    /// The entry of the sheet.
    sheet: usize,
    /// The name of the sheet.
    pub sheet_name: String,
    /// The unpacked size of the sheet, as the archive says.
    pub sheet_size: u64,
}

struct Relation {
    id: String,
    kind: String,
    target: String,
}

struct SheetEntry {
    name: String,
    relation: String,
    hidden: bool,
}

/// Whether an archive is a workbook.
pub fn is_workbook(archive: &ZipFileArchive) -> bool {
    find_part(archive, ROOT_RELATIONS).is_some() && find_part(archive, "xl/workbook.xml").is_some()
}

impl Workbook {
    /// Opens a workbook, and finds the sheet.
    ///
    /// # Errors
    /// `sheet_missing`, `workbook_invalid`, `workbook_texts_too_large`, or the error of the archive.
    pub fn open(mut archive: ZipFileArchive, choice: &SheetChoice, limits: WorkbookLimits) -> Result<Self> {
        let root = read_relations(&mut archive, ROOT_RELATIONS, "", limits)?;
        let book = root.iter().find(|relation| relation.kind.ends_with("/officeDocument"));
        let book = book.map_or_else(|| "xl/workbook.xml".to_owned(), |relation| relation.target.clone());
        let (folder, name) = book.rsplit_once('/').unwrap_or(("", book.as_str()));
        let relations =
            read_relations(&mut archive, &join_path(folder, &format!("_rels/{name}.rels")), folder, limits)?;
        let (sheets, dates) = read_book(open_part(&mut archive, &book, limits)?)?;
        let is_table = |sheet: &&SheetEntry| {
            relations.iter().any(|found| found.id == sheet.relation && found.kind.ends_with("/worksheet"))
        };
        let tables = sheets.iter().filter(is_table).collect::<Vec<_>>();
        let chosen = choose_sheet(&tables, choice)?;
        let target = relations.iter().find(|found| found.id == chosen.relation).map(|found| found.target.as_str());
        let sheet = target.and_then(|target| find_part(&archive, target));
        let sheet = sheet.ok_or_else(|| invalid_workbook(format!("it lacks the sheet `{}`", chosen.name)))?;
        let sheet_name = chosen.name.clone();
        let part = |kind: &str| {
            let found = relations.iter().find(|relation| relation.kind.ends_with(kind))?;
            find_part(&archive, &found.target)
        };
        let (texts, styles) = (part("/sharedStrings"), part("/styles"));
        let texts = match texts {
            Some(index) => {
                SharedTexts::read(PartReader::new(open_entry(&mut archive, index, limits.unpack)?), limits.shared_text)?
            }
            None => SharedTexts::default(),
        };
        let styles = match styles {
            Some(index) => read_styles(open_small_part(&mut archive, index, limits)?)?,
            None => Vec::new(),
        };
        let sheet_size = archive.by_index(sheet).map_or(0, |entry| entry.size());
        Ok(Self { archive, context: SheetContext { texts, styles, dates }, limits, sheet, sheet_name, sheet_size })
    }

    /// Starts to read the rows.
    ///
    /// # Errors
    /// The error of the archive.
    pub fn open_rows(&mut self, shape: RowShape) -> Result<SheetRows<'_, EntryBytes<'_>>> {
        let part = PartReader::new(open_entry(&mut self.archive, self.sheet, self.limits.unpack)?);
        Ok(SheetRows::new(part, &self.context, shape))
    }
}

fn choose_sheet<'a>(tables: &[&'a SheetEntry], choice: &SheetChoice) -> Result<&'a SheetEntry> {
    let found = match choice {
        SheetChoice::First => tables.iter().find(|sheet| !sheet.hidden).or_else(|| tables.first()),
        SheetChoice::Number(number) => {
            usize::try_from(*number).ok().and_then(|number| tables.get(number.checked_sub(1)?))
        }
        SheetChoice::Name(name) => {
            let wanted = name.trim().to_lowercase();
            let exact = tables.iter().find(|sheet| sheet.name == *name);
            exact.or_else(|| tables.iter().find(|sheet| sheet.name.trim().to_lowercase() == wanted))
        }
    };
    if let Some(found) = found {
        return Ok(*found);
    }
    let what = match choice {
        SheetChoice::First => "no sheet".to_owned(),
        SheetChoice::Number(number) => format!("no sheet number {number}"),
        SheetChoice::Name(name) => format!("no sheet `{name}`"),
    };
    let names = tables.iter().take(MAX_NAMED_SHEETS).map(|sheet| format!("`{}`", sheet.name)).collect::<Vec<_>>();
    let more = if tables.len() > MAX_NAMED_SHEETS { ", …" } else { "" };
    Err(Error::new(codes::SHEET_MISSING, format!("the workbook has {what}"))
        .with_hint(format!("its sheets are {}{more}", names.join(", "))))
}

/// Reads the sheets, and the day 0 of dates.
fn read_book(mut part: PartReader<EntryBytes<'_>>) -> Result<(Vec<SheetEntry>, DateSystem)> {
    let (mut sheets, mut dates) = (Vec::new(), DateSystem::From1900);
    loop {
        let event = part.next_event()?;
        match &event {
            Event::Eof => return Ok((sheets, dates)),
            Event::Start(element) | Event::Empty(element) => match element.local_name().as_ref() {
                b"workbookPr" => {
                    let is_1904 = find_attribute(element, b"date1904")?;
                    if matches!(is_1904.as_deref(), Some("1" | "true" | "on")) {
                        dates = DateSystem::From1904;
                    }
                }
                b"sheet" if sheets.len() < MAX_PARTS => {
                    let name = find_attribute(element, b"name")?.unwrap_or_default();
                    let relation = find_attribute(element, b"id")?.unwrap_or_default();
                    let state = find_attribute(element, b"state")?;
                    let hidden = matches!(state.as_deref(), Some("hidden" | "veryHidden"));
                    sheets.push(SheetEntry { name, relation, hidden });
                }
                _ => {}
            },
            _ => {}
        }
    }
}

/// Reads the relations of a part in this folder.
fn read_relations(
    archive: &mut ZipFileArchive,
    name: &str,
    folder: &str,
    limits: WorkbookLimits,
) -> Result<Vec<Relation>> {
    let mut part = open_part(archive, name, limits)?;
    let mut relations = Vec::new();
    loop {
        let event = part.next_event()?;
        match &event {
            Event::Eof => return Ok(relations),
            Event::Start(element) | Event::Empty(element)
                if element.local_name().as_ref() == b"Relationship" && relations.len() < MAX_PARTS =>
            {
                let id = find_attribute(element, b"Id")?.unwrap_or_default();
                let kind = find_attribute(element, b"Type")?.unwrap_or_default();
                let target = join_path(folder, &find_attribute(element, b"Target")?.unwrap_or_default());
                relations.push(Relation { id, kind, target });
            }
            _ => {}
        }
    }
}

fn open_part<'a>(
    archive: &'a mut ZipFileArchive,
    name: &str,
    limits: WorkbookLimits,
) -> Result<PartReader<EntryBytes<'a>>> {
    let index = find_part(archive, name).ok_or_else(|| invalid_workbook(format!("it lacks `{name}`")))?;
    open_small_part(archive, index, limits)
}

fn open_small_part(
    archive: &mut ZipFileArchive,
    index: usize,
    limits: WorkbookLimits,
) -> Result<PartReader<EntryBytes<'_>>> {
    let bytes = limits.unpack.bytes.min(MAX_SMALL_PART_BYTES);
    Ok(PartReader::new(open_entry(archive, index, UnpackLimits { bytes, ..limits.unpack })?))
}

/// Finds an entry. Some writers spell names otherwise than they refer to them.
fn find_part(archive: &ZipFileArchive, name: &str) -> Option<usize> {
    let is_same = |found: &str| found.replace('\\', "/").eq_ignore_ascii_case(name);
    let spelled = || {
        (0..archive.len())
            .find(|at| archive.name_for_index(*at).is_some_and(|found| found.is_ok_and(|found| is_same(&found))))
    };
    archive.index_for_name(name).or_else(spelled)
}

/// Resolves the target of a relation. An absolute one begins at the root of the archive.
fn join_path(folder: &str, target: &str) -> String {
    if let Some(absolute) = target.strip_prefix('/') {
        return absolute.to_owned();
    }
    let mut steps = folder.split('/').filter(|step| !step.is_empty()).collect::<Vec<_>>();
    for step in target.split('/') {
        match step {
            "." | "" => {}
            ".." => {
                steps.pop();
            }
            step => steps.push(step),
        }
    }
    steps.join("/")
}

#[cfg(test)]
mod tests;
