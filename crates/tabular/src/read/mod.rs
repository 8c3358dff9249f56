//! Table readers: CSV in any encoding, JSON Lines, workbooks, archives around them, and the values of cells.

pub mod cell_parser;
pub mod code_pages;
pub mod csv_dialect;
pub mod csv_parser;
pub mod csv_record;
pub mod date_format;
pub mod detect;
pub mod header_name;
pub mod json_lines;
pub mod number_format;
pub mod text_encoding;
pub mod unpack;
pub mod utf8_decoder;
pub mod xlsx;
