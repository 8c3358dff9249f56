//! Reading tables: CSV in any encoding, and what its cells may mean.

pub mod cell_parser;
pub mod csv_parser;
pub mod detect;
pub mod utf8_decoder;
