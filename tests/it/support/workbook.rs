//! Workbooks for imports, made by the writer of reports.

use afterload_tabular::write::ColumnDisplay;
use afterload_tabular::write::byte_pipe::BytePipe;
use afterload_tabular::write::xlsx::{SheetLayout, XlsxWriter};
use afterload_target_db::CellType;

/// Collects what is written to a pipe, in threads of their own, because pipes block.
pub fn collect_piped(write: impl FnOnce(BytePipe) + Send) -> Vec<u8> {
    let (pipe, mut receiver) = BytePipe::new();
    std::thread::scope(|scope| {
        scope.spawn(|| write(pipe));
        let collect = scope.spawn(move || {
            let mut bytes = Vec::new();
            while let Some(piece) = receiver.blocking_recv() {
                bytes.extend_from_slice(&piece);
            }
            bytes
        });
        collect.join().unwrap()
    })
}

/// Makes a workbook with one sheet.
pub fn make_workbook(titles: &[&str], rows: &[Vec<(CellType, String)>]) -> Vec<u8> {
    collect_piped(|pipe| {
        let display = |title: &&str| ColumnDisplay { title: (*title).to_owned(), ..ColumnDisplay::default() };
        let mut book = XlsxWriter::new(pipe).unwrap();
        book.start_table(SheetLayout::default(), &titles.iter().map(display).collect::<Vec<_>>()).unwrap();
        for row in rows {
            for (kind, cell) in row {
                book.write_cell(Some((*kind, cell.as_bytes())));
            }
            book.end_row().unwrap();
        }
        book.finish().unwrap();
    })
}
