"""Reads a report with what others wrote and prints its rows as JSON: `read.py csv|jsonl|xlsx|xlsx-values|gzip|zip < file`."""

import csv
import datetime
import gzip
import io
import json
import sys
import zipfile

import openpyxl


def cell(found):
    value = found.value
    if isinstance(value, (datetime.datetime, datetime.date)):
        return {"date": value.isoformat(), "format": found.number_format}
    if found.number_format not in ("General", "yyyy-mm-dd", "yyyy-mm-dd hh:mm:ss"):
        return {"value": value, "format": found.number_format}
    return value


def xlsx(data):
    book = openpyxl.load_workbook(io.BytesIO(data))
    return {sheet.title: [[cell(found) for found in row] for row in sheet.iter_rows()] for sheet in book.worksheets}


def values(data):
    book = openpyxl.load_workbook(io.BytesIO(data), data_only=True)
    last = list(book.worksheets[0].iter_rows(values_only=True))[-1]
    show = lambda value: value.isoformat() if isinstance(value, datetime.datetime) else value
    filters = {sheet.title: sheet.auto_filter.ref for sheet in book.worksheets}
    return {"filters": filters, "last": [show(value) for value in last]}


def table(data):
    return list(csv.reader(io.StringIO(data.decode("utf-8"), newline=""), strict=True))


def entries(data):
    archive = zipfile.ZipFile(io.BytesIO(data))
    assert archive.testzip() is None
    return {entry.filename: table(archive.read(entry)) for entry in archive.infolist()}


READERS = {
    "csv": table,
    "jsonl": lambda data: [json.loads(line) for line in data.decode("utf-8").split("\n")[:-1]],
    "xlsx": xlsx,
    "xlsx-values": values,
    "gzip": lambda data: table(gzip.decompress(data)),
    "zip": entries,
}

json.dump(READERS[sys.argv[1]](sys.stdin.buffer.read()), sys.stdout)
