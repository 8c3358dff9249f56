//! The XLSX writer. It streams the workbook and keeps only the current row. Rows beyond the limits of a sheet go to
//! further sheets, each with the header.

use std::io::Write;

use super::ColumnDisplay;
use super::byte_pipe::BytePipe;
use super::compression::{ZipStream, entry_options, new_zip_stream, write_error};
use super::format::CellFormat;
use super::sheet::{FIRST_FORMAT_STYLE, MAX_CELL_CHARS, SheetColumn, escape_xml};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_target_db::CellType;

/// The maximum number of rows in a sheet, including the header.
const MAX_SHEET_ROWS: u64 = 1_048_576;
/// The maximum size of a sheet. Larger entries need zip64, which spreadsheets do not read.
const MAX_SHEET_BYTES: u64 = 4_000_000_000;
/// Bytes that are collected before compression.
const SHEET_BUFFER_SIZE: usize = 64 << 10;

const XML_DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>\n";
const SPREADSHEET_NAMESPACE: &str = "http://schemas.openxmlformats.org/spreadsheetml/2006/main";
const OFFICE_NAMESPACE: &str = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
const PACKAGE_NAMESPACE: &str = "http://schemas.openxmlformats.org/package/2006";
const SPREADSHEET_CONTENT_TYPE: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml";

/// Writes a workbook.
pub struct XlsxWriter {
    archive: ZipStream,
    titles: Vec<String>,
    columns: Vec<SheetColumn>,
    sheets: usize,
    /// The number of the current row. `number` holds it as text.
    row: u64,
    number: String,
    column: usize,
    buffer: Vec<u8>,
    /// Bytes of the current sheet that have been compressed.
    packed: u64,
    max_rows: u64,
    error: Option<Error>,
}

impl XlsxWriter {
    /// Starts a workbook with one sheet.
    ///
    /// # Errors
    /// `report_cell_too_large` if a title is too long.
    pub fn new(pipe: BytePipe, shapes: &[ColumnDisplay]) -> Result<Self> {
        Self::with_max_rows(pipe, shapes, MAX_SHEET_ROWS)
    }

    fn with_max_rows(pipe: BytePipe, shapes: &[ColumnDisplay], rows: u64) -> Result<Self> {
        let mut book = Self {
            archive: new_zip_stream(pipe),
            titles: shapes.iter().map(|shape| shape.title.clone()).collect(),
            columns: SheetColumn::from_displays(shapes),
            sheets: 0,
            row: 0,
            number: String::new(),
            column: 0,
            buffer: Vec::with_capacity(2 * SHEET_BUFFER_SIZE),
            packed: 0,
            max_rows: rows,
            error: None,
        };
        // Many programs recognize an XLSX file by its first entries.
        let target = format!(
            "<Relationship Id=\"rId1\" Type=\"{OFFICE_NAMESPACE}/officeDocument\" Target=\"xl/workbook.xml\"/>"
        );
        book.write_part("_rels/.rels", &relations_xml(&target))?;
        book.write_part("xl/styles.xml", &styles_xml(shapes.iter().filter_map(|shape| shape.format.as_ref())))?;
        book.open_sheet()?;
        Ok(book)
    }

    /// Writes the next cell of the row. The first cell starts the row.
    pub fn write_cell(&mut self, cell: Option<(CellType, &[u8])>) {
        if self.column == 0
            && let Err(error) = self.begin_row()
        {
            self.error.get_or_insert(error);
        }
        let column = &self.columns[self.column];
        if let Some((sort, value)) = cell
            && !column.write_cell(&self.number, sort, value, &mut self.buffer)
        {
            self.error.get_or_insert_with(|| cell_too_large(&self.titles[self.column]));
        }
        self.column += 1;
    }

    /// Ends the row.
    ///
    /// # Errors
    /// `report_cell_too_large` if a cell is too long, `report_failed` if the output exceeds a limit of the format.
    pub fn end_row(&mut self) -> Result<()> {
        if let Some(fault) = self.error.take() {
            return Err(fault);
        }
        self.column = 0;
        self.buffer.extend_from_slice(b"</row>");
        match self.buffer.len() >= SHEET_BUFFER_SIZE {
            true => self.flush_buffer(),
            false => Ok(()),
        }
    }

    fn begin_row(&mut self) -> Result<()> {
        if self.row == self.max_rows || self.packed >= MAX_SHEET_BYTES {
            self.close_sheet()?;
            self.open_sheet()?;
        }
        self.start_row();
        Ok(())
    }

    /// Completes the workbook.
    ///
    /// # Errors
    /// `report_failed` if the output exceeds a limit of the format.
    pub fn finish(mut self) -> Result<()> {
        self.close_sheet()?;
        let numbers = 1..=self.sheets;
        let sheet = |at| format!("<sheet name=\"Sheet{at}\" sheetId=\"{at}\" r:id=\"rId{at}\"/>");
        let sheets: String = numbers.clone().map(sheet).collect();
        let book = format!(
            "{XML_DECLARATION}<workbook xmlns=\"{SPREADSHEET_NAMESPACE}\" xmlns:r=\"{OFFICE_NAMESPACE}\"><sheets>{sheets}</sheets></workbook>"
        );
        let relation = |at: usize, kind: &str, target: &str| {
            format!("<Relationship Id=\"rId{at}\" Type=\"{OFFICE_NAMESPACE}/{kind}\" Target=\"{target}\"/>")
        };
        let mut targets: String =
            numbers.clone().map(|at| relation(at, "worksheet", &format!("worksheets/sheet{at}.xml"))).collect();
        targets.push_str(&relation(self.sheets + 1, "styles", "styles.xml"));
        let part = |name: &str, kind: &str| {
            format!("<Override PartName=\"/xl/{name}.xml\" ContentType=\"{SPREADSHEET_CONTENT_TYPE}.{kind}+xml\"/>")
        };
        let parts: String = numbers.map(|at| part(&format!("worksheets/sheet{at}"), "worksheet")).collect();
        let types = format!(
            "{XML_DECLARATION}<Types xmlns=\"{PACKAGE_NAMESPACE}/content-types\">\
             <Default Extension=\"rels\" ContentType=\"application/vnd.openxmlformats-package.relationships+xml\"/>\
             <Default Extension=\"xml\" ContentType=\"application/xml\"/>{}{}{parts}</Types>",
            part("workbook", "sheet.main"),
            part("styles", "styles"),
        );
        self.write_part("xl/workbook.xml", &book)?;
        self.write_part("xl/_rels/workbook.xml.rels", &relations_xml(&targets))?;
        self.write_part("[Content_Types].xml", &types)?;
        self.archive.finish().map_err(write_error)?.into_inner().finish();
        Ok(())
    }

    fn write_part(&mut self, name: &str, text: &str) -> Result<()> {
        self.archive.start_file(name, entry_options()).map_err(write_error)?;
        self.archive.write_all(text.as_bytes()).map_err(write_error)
    }

    fn open_sheet(&mut self) -> Result<()> {
        self.sheets += 1;
        (self.row, self.packed) = (0, 0);
        self.archive
            .start_file(format!("xl/worksheets/sheet{}.xml", self.sheets), entry_options())
            .map_err(write_error)?;
        let selected = if self.sheets == 1 { " tabSelected=\"1\"" } else { "" };
        let width = |(at, column): (usize, &SheetColumn)| {
            let (at, width) = (at + 1, column.char_width());
            format!("<col min=\"{at}\" max=\"{at}\" width=\"{width}\" customWidth=\"1\"/>")
        };
        let widths: String = self.columns.iter().enumerate().map(width).collect();
        let head = format!(
            "{XML_DECLARATION}<worksheet xmlns=\"{SPREADSHEET_NAMESPACE}\"><sheetViews><sheetView{selected} workbookViewId=\"0\">\
             <pane ySplit=\"1\" topLeftCell=\"A2\" activePane=\"bottomLeft\" state=\"frozen\"/></sheetView></sheetViews>\
             <cols>{widths}</cols><sheetData>"
        );
        self.buffer.extend_from_slice(head.as_bytes());
        self.start_row();
        for (column, title) in self.columns.iter().zip(&self.titles) {
            if !column.write_title(title, &mut self.buffer) {
                return Err(cell_too_large(title));
            }
        }
        self.buffer.extend_from_slice(b"</row>");
        Ok(())
    }

    fn start_row(&mut self) {
        self.row += 1;
        self.number.clear();
        self.number.push_str(&self.row.to_string());
        self.buffer.extend_from_slice(b"<row r=\"");
        self.buffer.extend_from_slice(self.number.as_bytes());
        self.buffer.extend_from_slice(b"\">");
    }

    fn close_sheet(&mut self) -> Result<()> {
        self.buffer.extend_from_slice(b"</sheetData></worksheet>");
        self.flush_buffer()
    }

    fn flush_buffer(&mut self) -> Result<()> {
        self.archive.write_all(&self.buffer).map_err(write_error)?;
        self.packed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

fn cell_too_large(title: &str) -> Error {
    let message =
        format!("a value of the column `{title}` has more than the {MAX_CELL_CHARS} characters that a cell can hold");
    Error::new(codes::REPORT_CELL_TOO_LARGE, message)
}

fn relations_xml(targets: &str) -> String {
    format!("{XML_DECLARATION}<Relationships xmlns=\"{PACKAGE_NAMESPACE}/relationships\">{targets}</Relationships>")
}

/// Lists the styles: plain, bold for the header, dates, times, and one for each format.
fn styles_xml<'a>(formats: impl Iterator<Item = &'a CellFormat>) -> String {
    let codes: Vec<&str> =
        ["yyyy-mm-dd", "yyyy-mm-dd hh:mm:ss"].into_iter().chain(formats.map(|format| format.code.as_str())).collect();
    let (mut known, mut used) = (String::new(), String::new());
    for (id, code) in (164..).zip(&codes) {
        let mut escaped = Vec::new();
        escape_xml(code.as_bytes(), &mut escaped);
        let code = String::from_utf8_lossy(&escaped).replace('"', "&quot;");
        known.push_str(&format!("<numFmt numFmtId=\"{id}\" formatCode=\"{code}\"/>"));
        used.push_str(&format!(
            "<xf numFmtId=\"{id}\" fontId=\"0\" fillId=\"0\" borderId=\"0\" xfId=\"0\" applyNumberFormat=\"1\"/>"
        ));
    }
    let (formats, all) = (codes.len(), codes.len() + FIRST_FORMAT_STYLE - 2);
    let plain = "<xf numFmtId=\"0\" fontId=\"0\" fillId=\"0\" borderId=\"0\"";
    format!(
        "{XML_DECLARATION}<styleSheet xmlns=\"{SPREADSHEET_NAMESPACE}\"><numFmts count=\"{formats}\">{known}</numFmts>\
         <fonts count=\"2\"><font><sz val=\"11\"/><name val=\"Calibri\"/></font>\
         <font><b/><sz val=\"11\"/><name val=\"Calibri\"/></font></fonts>\
         <fills count=\"2\"><fill><patternFill patternType=\"none\"/></fill><fill><patternFill patternType=\"gray125\"/></fill></fills>\
         <borders count=\"1\"><border><left/><right/><top/><bottom/><diagonal/></border></borders>\
         <cellStyleXfs count=\"1\">{plain}/></cellStyleXfs>\
         <cellXfs count=\"{all}\">{plain} xfId=\"0\"/>\
         <xf numFmtId=\"0\" fontId=\"1\" fillId=\"0\" borderId=\"0\" xfId=\"0\" applyFont=\"1\"/>{used}</cellXfs>\
         <cellStyles count=\"1\"><cellStyle name=\"Normal\" xfId=\"0\" builtinId=\"0\"/></cellStyles></styleSheet>"
    )
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn part(bytes: &[u8], name: &str) -> String {
        let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
        let mut text = String::new();
        archive.by_name(name).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn full_sheet_continues_in_next_sheet() {
        let (pipe, mut pieces) = BytePipe::new();
        let shapes = [ColumnDisplay { title: "A & B".into(), format: None }];
        let mut book = XlsxWriter::with_max_rows(pipe, &shapes, 3).unwrap();
        for row in 0..5 {
            book.write_cell(Some((CellType::Number, row.to_string().as_bytes())));
            book.end_row().unwrap();
        }
        book.finish().unwrap();
        let mut bytes = Vec::new();
        while let Ok(piece) = pieces.try_recv() {
            bytes.extend_from_slice(&piece);
        }
        let rows = |sheet| part(&bytes, &format!("xl/worksheets/sheet{sheet}.xml")).matches("<row ").count();
        assert_eq!([rows(1), rows(2), rows(3)], [3, 3, 2]);
        let last = part(&bytes, "xl/worksheets/sheet3.xml");
        assert!(
            last.contains("A &amp; B</t>") && last.contains("<row r=\"2\"><c r=\"A2\"><v>4</v></c></row>"),
            "{last}"
        );
        assert_eq!(part(&bytes, "xl/workbook.xml").matches("<sheet ").count(), 3);
        assert_eq!(part(&bytes, "[Content_Types].xml").matches("/xl/worksheets/").count(), 3);
    }
}
