//! The XLSX writer. It streams the workbook and keeps only the current row. Rows beyond the limits of a sheet go to
//! further sheets, each with the header.

use std::io::Write;

use super::ColumnDisplay;
use super::byte_pipe::BytePipe;
use super::compression::{ZipStream, entry_options, new_zip_stream, write_error};
use super::sheet::{CellOutcome, MAX_CELL_CHARS, SheetColumn};
use super::sheet_names::{SheetNames, cut_chars};
use super::styles::StyleTable;
use super::xml_text::escape_xml;
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_target_db::CellType;

/// The maximum number of rows in a sheet, including the header.
const MAX_SHEET_ROWS: u64 = 1_048_576;
/// The maximum size of a sheet. Larger entries need zip64, which spreadsheets do not read.
const MAX_SHEET_BYTES: u64 = 4_000_000_000;
/// Bytes that are collected before compression.
const SHEET_BUFFER_SIZE: usize = 64 << 10;
/// The most characters of a title in an error.
const MAX_TITLE_CHARS: usize = 60;
/// What stands before the totals, if the first column has none.
const TOTAL_LABEL: &str = "Total";

const XML_DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>\n";
const SPREADSHEET_NAMESPACE: &str = "http://schemas.openxmlformats.org/spreadsheetml/2006/main";
const OFFICE_NAMESPACE: &str = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
const PACKAGE_NAMESPACE: &str = "http://schemas.openxmlformats.org/package/2006";
const SPREADSHEET_CONTENT_TYPE: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml";

/// How a sheet looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SheetLayout {
    /// The name of the sheet, as far as spreadsheets allow; `None` for `Sheet1` and so on.
    pub name: Option<String>,
    /// Whether the header stays in view.
    pub frozen_header: bool,
    /// Whether the header has filters.
    pub autofilter: bool,
    /// Whether texts that no cell can hold are cut, instead of refused.
    pub cut_texts: bool,
}

/// Writes a workbook: one table after the other, each on as many sheets as it needs.
pub struct XlsxWriter {
    archive: ZipStream,
    styles: StyleTable,
    names: SheetNames,
    /// The hidden names that mark filters, as XML.
    filters: String,
    layout: SheetLayout,
    titles: Vec<String>,
    columns: Vec<SheetColumn>,
    /// The sheets of the current table.
    table_sheets: usize,
    /// The rows of the current table.
    table_rows: u64,
    /// The number of the current row. `number` holds it as text.
    row: u64,
    number: String,
    column: usize,
    buffer: Vec<u8>,
    /// Bytes of the current sheet that have been compressed.
    packed: u64,
    max_rows: u64,
    /// The rows of a sheet that the table may fill; one less if totals follow.
    max_table_rows: u64,
    cut_cells: u64,
    error: Option<Error>,
}

impl XlsxWriter {
    /// Starts a workbook.
    ///
    /// # Errors
    /// `report_failed` if the output exceeds a limit of the format.
    pub fn new(pipe: BytePipe) -> Result<Self> {
        Self::with_max_rows(pipe, MAX_SHEET_ROWS)
    }

    fn with_max_rows(pipe: BytePipe, rows: u64) -> Result<Self> {
        let mut book = Self {
            archive: new_zip_stream(pipe),
            styles: StyleTable::new(),
            names: SheetNames::default(),
            filters: String::new(),
            layout: SheetLayout::default(),
            titles: Vec::new(),
            columns: Vec::new(),
            table_sheets: 0,
            table_rows: 0,
            row: 0,
            number: String::new(),
            column: 0,
            buffer: Vec::with_capacity(2 * SHEET_BUFFER_SIZE),
            packed: 0,
            max_rows: rows,
            max_table_rows: rows,
            cut_cells: 0,
            error: None,
        };
        // Many programs recognize an XLSX file by its first entries.
        let target = format!(
            "<Relationship Id=\"rId1\" Type=\"{OFFICE_NAMESPACE}/officeDocument\" Target=\"xl/workbook.xml\"/>"
        );
        book.write_part("_rels/.rels", &relations_xml(&target))?;
        Ok(book)
    }

    /// Starts a table on a new sheet. It ends the table before.
    ///
    /// # Errors
    /// `report_cell_too_large` if a title is too long.
    pub fn start_table(&mut self, layout: SheetLayout, shapes: &[ColumnDisplay]) -> Result<()> {
        if self.table_sheets > 0 {
            self.end_table()?;
        }
        self.titles = shapes.iter().map(|shape| shape.title.clone()).collect();
        self.columns = SheetColumn::from_displays(shapes, layout.cut_texts, &mut self.styles);
        self.layout = layout;
        (self.table_sheets, self.table_rows) = (0, 0);
        self.max_table_rows = self.max_rows - u64::from(self.has_totals());
        self.open_sheet()
    }

    /// Writes the next cell of the row. The first cell starts the row.
    pub fn write_cell(&mut self, cell: Option<(CellType, &[u8])>) {
        if self.column == 0
            && let Err(error) = self.begin_row()
        {
            self.error.get_or_insert(error);
        }
        if let Some((sort, value)) = cell {
            match self.columns[self.column].write_cell(&self.number, sort, value, &mut self.buffer) {
                CellOutcome::TooLong => {
                    let (row, title) = (self.table_rows, &self.titles[self.column]);
                    self.error.get_or_insert_with(|| cell_too_large(&format!("row {row} of the column `{title}`")));
                }
                CellOutcome::CutText => self.cut_cells += 1,
                CellOutcome::Number | CellOutcome::DateTime(_) | CellOutcome::Other => {}
            }
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

    /// How many texts have been cut.
    pub fn cut_cells(&self) -> u64 {
        self.cut_cells
    }

    fn begin_row(&mut self) -> Result<()> {
        if self.row >= self.max_table_rows || self.packed >= MAX_SHEET_BYTES {
            self.close_sheet(self.row)?;
            self.open_sheet()?;
        }
        self.table_rows += 1;
        self.start_row();
        Ok(())
    }

    fn has_totals(&self) -> bool {
        self.columns.iter().any(|column| column.total().is_some())
    }

    /// Completes the workbook.
    ///
    /// # Errors
    /// `report_failed` if the output exceeds a limit of the format.
    pub fn finish(mut self) -> Result<()> {
        if self.table_sheets > 0 {
            self.end_table()?;
        }
        let styles = self.styles.to_xml();
        self.write_part("xl/styles.xml", &styles)?;
        let numbers = 1..=self.names.as_slice().len();
        let sheet = |(at, name): (usize, &String)| {
            let name = attribute_text(name);
            format!("<sheet name=\"{name}\" sheetId=\"{at}\" r:id=\"rId{at}\"/>")
        };
        let sheets: String = numbers.clone().zip(self.names.as_slice()).map(sheet).collect();
        let filters = match self.filters.as_str() {
            "" => String::new(),
            filters => format!("<definedNames>{filters}</definedNames>"),
        };
        let book = format!(
            "{XML_DECLARATION}<workbook xmlns=\"{SPREADSHEET_NAMESPACE}\" xmlns:r=\"{OFFICE_NAMESPACE}\"><sheets>{sheets}</sheets>{filters}</workbook>"
        );
        let relation = |at: usize, kind: &str, target: &str| {
            format!("<Relationship Id=\"rId{at}\" Type=\"{OFFICE_NAMESPACE}/{kind}\" Target=\"{target}\"/>")
        };
        let mut targets: String =
            numbers.clone().map(|at| relation(at, "worksheet", &format!("worksheets/sheet{at}.xml"))).collect();
        targets.push_str(&relation(self.names.as_slice().len() + 1, "styles", "styles.xml"));
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
        self.table_sheets += 1;
        (self.row, self.packed) = (0, 0);
        let number = self.names.as_slice().len() + 1;
        match &self.layout.name {
            Some(name) => self.names.add(name),
            None => self.names.add(&format!("Sheet{number}")),
        };
        self.archive.start_file(format!("xl/worksheets/sheet{number}.xml"), entry_options()).map_err(write_error)?;
        let selected = if number == 1 { " tabSelected=\"1\"" } else { "" };
        let pane = match self.layout.frozen_header {
            true => "<pane ySplit=\"1\" topLeftCell=\"A2\" activePane=\"bottomLeft\" state=\"frozen\"/>",
            false => "",
        };
        let width = |(at, column): (usize, &SheetColumn)| {
            let (at, width) = (at + 1, column.char_width());
            format!("<col min=\"{at}\" max=\"{at}\" width=\"{width}\" customWidth=\"1\"/>")
        };
        let widths: String = self.columns.iter().enumerate().map(width).collect();
        let head = format!(
            "{XML_DECLARATION}<worksheet xmlns=\"{SPREADSHEET_NAMESPACE}\"><sheetViews><sheetView{selected} workbookViewId=\"0\">\
             {pane}</sheetView></sheetViews><cols>{widths}</cols><sheetData>"
        );
        self.buffer.extend_from_slice(head.as_bytes());
        self.start_row();
        for (column, title) in self.columns.iter().zip(&self.titles) {
            if !column.write_title(title, &mut self.buffer) {
                return Err(cell_too_large(&format!(
                    "the title of the column `{}`",
                    cut_chars(title, MAX_TITLE_CHARS)
                )));
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

    /// Writes the totals and closes the last sheet of the table.
    fn end_table(&mut self) -> Result<()> {
        let last = self.row;
        if self.table_rows > 0 && self.has_totals() {
            self.start_row();
            // A formula sees one sheet.
            let formula = self.table_sheets == 1;
            for (at, column) in self.columns.iter().enumerate() {
                match column.total() {
                    Some(_) => column.write_total(&self.number, last, formula, &mut self.styles, &mut self.buffer),
                    None if at == 0 => column.write_label(&self.number, TOTAL_LABEL, &mut self.buffer),
                    None => {}
                }
            }
            self.buffer.extend_from_slice(b"</row>");
        }
        self.close_sheet(last)
    }

    /// Closes a sheet whose data ends with the row `last`.
    fn close_sheet(&mut self, last: u64) -> Result<()> {
        self.buffer.extend_from_slice(b"</sheetData>");
        if let Some(column) = self.columns.last().filter(|_| self.layout.autofilter) {
            let letters = column.letters();
            self.buffer.extend_from_slice(format!("<autoFilter ref=\"A1:{letters}{last}\"/>").as_bytes());
            let names = self.names.as_slice();
            let (index, name) = (names.len() - 1, names.last().map_or("", String::as_str));
            let name = attribute_text(&name.replace('\'', "''"));
            self.filters.push_str(&format!(
                "<definedName name=\"_xlnm._FilterDatabase\" localSheetId=\"{index}\" hidden=\"1\">\
                 '{name}'!$A$1:${letters}${last}</definedName>"
            ));
        }
        self.buffer.extend_from_slice(b"</worksheet>");
        self.flush_buffer()
    }

    fn flush_buffer(&mut self) -> Result<()> {
        self.archive.write_all(&self.buffer).map_err(write_error)?;
        self.packed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

fn cell_too_large(cell: &str) -> Error {
    let message = format!("{cell} has more than the {MAX_CELL_CHARS} characters that a cell can hold");
    Error::new(codes::REPORT_CELL_TOO_LARGE, message)
}

/// Escapes the value of an attribute.
fn attribute_text(text: &str) -> String {
    let mut escaped = Vec::new();
    escape_xml(text.as_bytes(), &mut escaped);
    String::from_utf8_lossy(&escaped).replace('"', "&quot;")
}

fn relations_xml(targets: &str) -> String {
    format!("{XML_DECLARATION}<Relationships xmlns=\"{PACKAGE_NAMESPACE}/relationships\">{targets}</Relationships>")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::ColumnTotal;
    use super::super::format::CellFormat;
    use super::*;

    fn part(bytes: &[u8], name: &str) -> String {
        let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
        let mut text = String::new();
        archive.by_name(name).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// Writes tables of one column with these cells, and returns the file.
    fn write_book(max_rows: u64, tables: &[(SheetLayout, ColumnDisplay, &[&str])]) -> (Vec<u8>, u64) {
        let (pipe, mut pieces) = BytePipe::new();
        let mut book = XlsxWriter::with_max_rows(pipe, max_rows).unwrap();
        for (layout, column, cells) in tables {
            book.start_table(layout.clone(), std::slice::from_ref(column)).unwrap();
            for cell in *cells {
                let kind = if cell.parse::<f64>().is_ok() { CellType::Number } else { CellType::Text };
                book.write_cell(Some((kind, cell.as_bytes())));
                book.end_row().unwrap();
            }
        }
        let cut = book.cut_cells();
        book.finish().unwrap();
        let mut bytes = Vec::new();
        while let Ok(piece) = pieces.try_recv() {
            bytes.extend_from_slice(&piece);
        }
        (bytes, cut)
    }

    fn column(title: &str) -> ColumnDisplay {
        ColumnDisplay { title: title.to_owned(), ..ColumnDisplay::default() }
    }

    #[test]
    fn full_sheet_continues_in_next_sheet() {
        let cells = ["0", "1", "2", "3", "4"];
        let (bytes, _) = write_book(3, &[(SheetLayout::default(), column("A & B"), &cells[..])]);
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

    #[test]
    fn tables_have_sheets_totals_and_filters_of_their_own() {
        let layout = |name: &str| SheetLayout {
            name: Some(name.to_owned()),
            frozen_header: true,
            autofilter: true,
            cut_texts: false,
        };
        let sum = ColumnDisplay {
            format: Some(CellFormat::new("0.00")),
            width: Some(40),
            total: Some(ColumnTotal::Sum),
            ..column("amount")
        };
        let tables =
            [(layout("It's"), sum.clone(), &["0.1", "0.2", "x"][..]), (layout("it's"), sum, &["1", "2", "3", "4"][..])];
        let (bytes, _) = write_book(5, &tables);
        let first = part(&bytes, "xl/worksheets/sheet1.xml");
        let total = "<row r=\"5\"><c r=\"A5\" s=\"5\"><f>SUBTOTAL(109,A2:A4)</f><v>0.3</v></c></row>";
        for expected in [total, "width=\"40\"", "<autoFilter ref=\"A1:A4\"/></worksheet>", "state=\"frozen\""] {
            assert!(first.contains(expected), "{expected} in {first}");
        }
        // The second table does not fit into one sheet with its totals.
        let last = part(&bytes, "xl/worksheets/sheet3.xml");
        assert!(last.contains("<c r=\"A3\" s=\"5\"><v>10</v></c></row></sheetData>"), "{last}");
        let book = part(&bytes, "xl/workbook.xml");
        for expected in ["name=\"It's\"", "name=\"it's (2)\"", "name=\"it's (3)\"", "'It''s'!$A$1:$A$4</definedName>"] {
            assert!(book.contains(expected), "{expected} in {book}");
        }
        let styles = part(&bytes, "xl/styles.xml");
        assert_eq!((styles.matches("formatCode=\"0.00\"").count(), styles.matches("<xf ").count()), (1, 7), "{styles}");
    }

    #[test]
    fn long_texts_are_cut_or_refused_with_their_place() {
        let long = "😀".repeat(MAX_CELL_CHARS);
        let layout = SheetLayout { cut_texts: true, ..SheetLayout::default() };
        let (bytes, cut) = write_book(5, &[(layout, column("a"), &["short", long.as_str()][..])]);
        let sheet = part(&bytes, "xl/worksheets/sheet1.xml");
        let kept = format!("<t>{}…</t>", "😀".repeat(MAX_CELL_CHARS / 2));
        assert!(cut == 1 && sheet.contains(&kept));

        let (pipe, _pieces) = BytePipe::new();
        let mut book = XlsxWriter::new(pipe).unwrap();
        book.start_table(SheetLayout::default(), &[column("a"), column("b")]).unwrap();
        let mut written = Ok(());
        for text in ["short", long.as_str()] {
            book.write_cell(None);
            book.write_cell(Some((CellType::Text, text.as_bytes())));
            written = written.and(book.end_row());
        }
        let error = written.unwrap_err();
        let message = "row 2 of the column `b` has more than the 32767 characters that a cell can hold";
        assert_eq!((error.code(), error.message()), (codes::REPORT_CELL_TOO_LARGE, message));
    }
}
