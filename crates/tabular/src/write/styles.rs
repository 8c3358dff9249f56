//! The cell styles of a workbook.

use super::xml_text::escape_xml;

const XML_DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>\n";
const SPREADSHEET_NAMESPACE: &str = "http://schemas.openxmlformats.org/spreadsheetml/2006/main";
/// The number of the first format that is not built in.
const FIRST_FORMAT_ID: usize = 164;

/// The style of a cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CellStyle {
    /// The code of its number format.
    pub format: Option<String>,
    /// Whether it is bold.
    pub bold: bool,
}

/// All styles of a workbook. A cell names its style by the index.
pub struct StyleTable(Vec<CellStyle>);

impl StyleTable {
    /// The style attribute of headers.
    pub const HEADER: &str = " s=\"1\"";
    /// The style attribute of dates.
    pub const DATE: &str = " s=\"2\"";
    /// The style attribute of times.
    pub const DATETIME: &str = " s=\"3\"";

    /// Creates a table with the styles that need no configuration.
    pub fn new() -> Self {
        let dated = |code: &str| CellStyle { format: Some(code.to_owned()), bold: false };
        let bold = CellStyle { format: None, bold: true };
        Self(vec![CellStyle::default(), bold, dated("yyyy-mm-dd"), dated("yyyy-mm-dd hh:mm:ss")])
    }

    /// Returns the style attribute of a cell.
    pub fn attribute(&mut self, style: CellStyle) -> String {
        let index = self.0.iter().position(|known| *known == style).unwrap_or_else(|| {
            self.0.push(style);
            self.0.len() - 1
        });
        format!(" s=\"{index}\"")
    }

    /// The format of the style with this attribute.
    pub fn format_of(&self, attribute: &str) -> Option<&str> {
        let index: usize = attribute.strip_prefix(" s=\"")?.strip_suffix('"')?.parse().ok()?;
        self.0.get(index)?.format.as_deref()
    }

    /// The part `xl/styles.xml`.
    pub fn to_xml(&self) -> String {
        let (mut codes, mut known, mut used) = (Vec::<&str>::new(), String::new(), String::new());
        for CellStyle { format, bold } in &self.0 {
            let id = match format.as_deref() {
                None => 0,
                Some(code) => {
                    let at = codes.iter().position(|known| *known == code).unwrap_or_else(|| {
                        known.push_str(&format_xml(FIRST_FORMAT_ID + codes.len(), code));
                        codes.push(code);
                        codes.len() - 1
                    });
                    FIRST_FORMAT_ID + at
                }
            };
            let font = usize::from(*bold);
            used.push_str(&format!(
                "<xf numFmtId=\"{id}\" fontId=\"{font}\" fillId=\"0\" borderId=\"0\" xfId=\"0\" \
                 applyNumberFormat=\"1\" applyFont=\"1\"/>"
            ));
        }
        let (formats, all) = (codes.len(), self.0.len());
        format!(
            "{XML_DECLARATION}<styleSheet xmlns=\"{SPREADSHEET_NAMESPACE}\"><numFmts count=\"{formats}\">{known}</numFmts>\
             <fonts count=\"2\"><font><sz val=\"11\"/><name val=\"Calibri\"/></font>\
             <font><b/><sz val=\"11\"/><name val=\"Calibri\"/></font></fonts>\
             <fills count=\"2\"><fill><patternFill patternType=\"none\"/></fill><fill><patternFill patternType=\"gray125\"/></fill></fills>\
             <borders count=\"1\"><border><left/><right/><top/><bottom/><diagonal/></border></borders>\
             <cellStyleXfs count=\"1\"><xf numFmtId=\"0\" fontId=\"0\" fillId=\"0\" borderId=\"0\"/></cellStyleXfs>\
             <cellXfs count=\"{all}\">{used}</cellXfs>\
             <cellStyles count=\"1\"><cellStyle name=\"Normal\" xfId=\"0\" builtinId=\"0\"/></cellStyles></styleSheet>"
        )
    }
}

fn format_xml(id: usize, code: &str) -> String {
    let mut escaped = Vec::new();
    escape_xml(code.as_bytes(), &mut escaped);
    let code = String::from_utf8_lossy(&escaped).replace('"', "&quot;");
    format!("<numFmt numFmtId=\"{id}\" formatCode=\"{code}\"/>")
}
