"""Makes contacts.xlsx as spreadsheets save it: shared texts, dates as numbers, a title above the table, a formula and an error."""

import zipfile

SHARED = ["Contacts of the fair", "Name", "E-mail", "Member since", "Amount", "Zoë Müller", "Ada & Bob", "Łukasz", "Cy"]
ROWS = [
    '<row r="1"><c r="A1" t="s"><v>0</v></c></row>',
    '<row r="3"><c r="A3" t="s"><v>1</v></c><c r="B3" t="s"><v>2</v></c><c r="C3" t="s"><v>3</v></c><c r="D3" t="s"><v>4</v></c></row>',
    '<row r="4"><c r="A4" t="s"><v>5</v></c><c r="B4" t="inlineStr"><is><t>zoe@example.com</t></is></c><c r="C4" s="1"><v>45351</v></c><c r="D4"><v>1234.5</v></c></row>',
    '<row r="5"><c r="A5" t="s"><v>6</v></c><c r="B5" t="inlineStr"><is><t>ada@example.com</t></is></c><c r="C5" s="1"><v>36526</v></c><c r="D5"><f>D4*2</f><v>2469</v></c></row>',
    '<row r="6"><c r="A6" t="s"><v>7</v></c><c r="B6" t="inlineStr"><is><t>lukasz@example.com</t></is></c><c r="C6" t="inlineStr"><is><t>24.12.2023</t></is></c><c r="D6"><v>0.30000000000000004</v></c></row>',
    '<row r="7"><c r="A7" t="s"><v>8</v></c><c r="B7" t="inlineStr"><is><t>cy@example.com</t></is></c><c r="C7" s="1"><v>45352</v></c><c r="D7" t="e"><v>#N/A</v></c></row>',
]
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'


def escaped(text):
    return text.replace("&", "&amp;").replace("<", "&lt;")


def relations(targets):
    one = '<Relationship Id="rId{}" Type="' + OFFICE + '/{}" Target="{}"/>'
    inner = "".join(one.format(number, kind, target) for number, (kind, target) in enumerate(targets, 1))
    return f'<Relationships xmlns="{PACKAGE}/relationships">{inner}</Relationships>'


def part(name, kind):
    content = "application/vnd.openxmlformats-officedocument.spreadsheetml." + kind + "+xml"
    return f'<Override PartName="/xl/{name}" ContentType="{content}"/>'


PARTS = {
    "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    + part("workbook.xml", "sheet.main") + part("worksheets/sheet1.xml", "worksheet")
    + part("sharedStrings.xml", "sharedStrings") + part("styles.xml", "styles") + "</Types>",
    "_rels/.rels": relations([("officeDocument", "xl/workbook.xml")]),
    "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><sheets><sheet name="People" sheetId="1" r:id="rId1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": relations(
        [("worksheet", "worksheets/sheet1.xml"), ("sharedStrings", "sharedStrings.xml"), ("styles", "styles.xml")]
    ),
    "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{MAIN}"><sheetData>{"".join(ROWS)}</sheetData></worksheet>',
    "xl/sharedStrings.xml": f'<sst xmlns="{MAIN}">' + "".join(f"<si><t>{escaped(text)}</t></si>" for text in SHARED) + "</sst>",
    "xl/styles.xml": f'<styleSheet xmlns="{MAIN}"><fonts count="1"><font/></fonts><fills count="1"><fill/></fills><borders count="1"><border/></borders>'
    '<cellStyleXfs count="1"><xf/></cellStyleXfs><cellXfs count="2"><xf/><xf numFmtId="14" applyNumberFormat="1"/></cellXfs></styleSheet>',
}

with zipfile.ZipFile("contacts.xlsx", "w", zipfile.ZIP_DEFLATED) as book:
    for name, text in PARTS.items():
        book.writestr(zipfile.ZipInfo(name), HEAD + text, zipfile.ZIP_DEFLATED)
