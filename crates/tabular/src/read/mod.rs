//! Table readers: CSV in any encoding, and the values of cells.

pub mod cell_parser;
pub mod csv_parser;
pub mod detect;
pub mod utf8_decoder;
