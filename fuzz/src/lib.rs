//! What each fuzz target does with its bytes. The tests of the workspace call the same functions with inputs of their own.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use afterload::app::RunningService;
use afterload::config::{BucketConfig, Config};
use afterload::registry::step_kinds;
use afterload_image_resize::{Geometry, ImageLimits, inspect_image};
use afterload_mailer::{parse_provider_report, parse_report_message};
use afterload_media_type::PixelSize;
use afterload_pipeline::expr::{self, ExprContext};
use afterload_pipeline::{ValidationContext, compile_definition};
use afterload_tabular::read::csv_parser::{CsvDialect, CsvParser, CsvRecord};
use afterload_tabular::read::detect::{detect_delimiter, detect_encoding};
use afterload_tabular::read::utf8_decoder::Utf8Decoder;
use serde_json::json;

const KEY: &str = "a-key-for-tests-of-at-least-24-characters";
const PIPELINE: &str = "name: form\nparams:\n  file: { type: file, required: false }\n  \
                        files: { type: list, items: { type: file }, required: false }\n  \
                        number: { type: integer, required: false }\n  never: { type: integer, min: 1, max: 1 }\n\
                        steps: [{ id: one, uses: wait, with: { for: 1ms } }]\n";

/// Reads a pipeline file.
pub fn load_yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let catalog = step_kinds().catalog();
    if let Err(problems) = compile_definition(None, text, &catalog, &ValidationContext::default()) {
        assert!(!problems.is_empty(), "a rejected file has a problem");
    }
}

/// Reads a report of a bounce, as a message and as the webhook of a provider.
pub fn read_bounce_report(data: &[u8]) {
    for parsed in [parse_report_message(data), parse_provider_report(data)].into_iter().flatten() {
        for report in parsed.reports {
            let is_plain = |text: &str| !text.chars().any(char::is_control);
            assert!(
                report.address.contains('@') && is_plain(&report.address) && is_plain(&report.detail),
                "{report:?}"
            );
        }
    }
}

/// Evaluates an expression, and a text with expressions in it.
pub fn evaluate_expression(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let params = json!({ "text": "größe", "number": 7, "list": [1, "two", null], "map": { "a": { "b": 1.5 } } });
    let context = ExprContext::new().with_params(params.as_object().expect("an object")).with_event(&params);
    drop(expr::evaluate_expression(text, &context));
    drop(expr::resolve_to_text(text, &context));
    drop(expr::resolve_url(text, &context));
    drop(expr::resolve_html(text, &context));
    drop(expr::check_url_template(text));
    drop(expr::Condition::new(text).is_met(&context));
}

/// Applies a geometry to a picture, whose size is in the first four bytes.
pub fn apply_geometry(data: &[u8]) {
    let Some((size, text)) = data.split_first_chunk::<4>() else { return };
    let side = |high: u8, low: u8| u32::from(u16::from_be_bytes([high, low])).max(1);
    let Ok(geometry) = String::from_utf8_lossy(text).parse::<Geometry>() else { return };
    let crop = geometry.scale_crop_for(PixelSize::new(side(size[0], size[1]), side(size[2], size[3])));
    assert!(crop.size.width >= 1 && crop.size.height >= 1, "{crop:?}");
    assert!(crop.left + crop.size.width <= crop.scaled.width, "{crop:?}");
    assert!(crop.top + crop.size.height <= crop.scaled.height, "{crop:?}");
}

/// Reads a CSV whole and in pieces, as large as the first byte says. Both give the same records.
pub fn read_csv(data: &[u8]) {
    let Some((size, bytes)) = data.split_first() else { return };
    assert_eq!(csv_records(bytes, bytes.len()), csv_records(bytes, usize::from(*size)));
}

fn csv_records(bytes: &[u8], size: usize) -> Result<Vec<CsvRecord>, Infallible> {
    let encoding = detect_encoding(bytes, true, None);
    let dialect = CsvDialect::new(b',', Some(b'"'));
    let dialect = CsvDialect { delimiter: detect_delimiter(bytes, true, dialect).0, ..dialect };
    let (mut decoder, start) = Utf8Decoder::new(encoding, 0);
    let (mut parser, mut record, mut records) = (CsvParser::new(dialect, 0, 1), CsvRecord::default(), Vec::new());
    let mut read = |mut text: &[u8]| -> Result<(), Infallible> {
        while parser.read_record(&mut text, &mut record) {
            records.push(record.clone());
        }
        Ok(())
    };
    for piece in bytes[start as usize..].chunks(size.max(1)) {
        decoder.decode_chunk(piece, false, &mut read)?;
    }
    decoder.decode_chunk(&[], true, &mut read)?;
    while parser.finish(&mut record) {
        records.push(record.clone());
    }
    Ok(records)
}

/// Inspects a picture.
pub fn inspect_picture(data: &[u8]) {
    let limits = ImageLimits::default();
    if let Ok(picture) = inspect_image(data, &limits) {
        assert!(picture.stored.width >= 1 && picture.stored.height >= 1, "{picture:?}");
    }
}

/// Sends a form whose boundary is `b`.
pub fn send_form(data: &[u8]) {
    let head = format!(
        "POST /v1/pipelines/form/runs HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {KEY}\r\n\
         Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {}\r\n\r\n",
        data.len()
    );
    let status = send(service().api, &[head.as_bytes(), data].concat());
    assert!((400..500).contains(&status), "a form without `never` is rejected: {status}");
}

/// Sends a request to the store. The first byte chooses the method; the rest is the path with its query.
pub fn send_s3_request(data: &[u8]) {
    let Some((method, target)) = data.split_first() else { return };
    let methods = ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"];
    let method = methods[usize::from(*method) % methods.len()];
    let target: Vec<u8> = target.iter().copied().filter(|byte| *byte > b' ' && *byte != 0x7f).collect();
    let head = [method.as_bytes(), b" /".as_slice(), &target].concat();
    let rest = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let status = send(service().s3, &[head.as_slice(), rest].concat());
    assert!((200..500).contains(&status) || status == 501, "{status}");
}

/// The real service, started once.
struct Service {
    api: SocketAddr,
    s3: SocketAddr,
    _folder: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
    _service: Mutex<RunningService>,
}

fn service() -> &'static Service {
    static SERVICE: OnceLock<Service> = OnceLock::new();
    SERVICE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config { listen: free, data: path("data"), pipelines: path("pipelines"), ..Config::default() };
        config.objects.listen = free;
        config.objects.buckets.insert("open".into(), BucketConfig { public: true, ..BucketConfig::default() });
        config.add_default_connection();
        std::fs::create_dir(&config.pipelines).expect("a folder");
        std::fs::write(config.pipelines.join("form.yaml"), PIPELINE).expect("a pipeline");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let service = runtime.block_on(RunningService::start(config, Some(KEY.to_owned()))).expect("it starts");
        assert!(service.pipelines.refused.is_empty(), "the pipeline is live");
        let address = |url: &str| url.trim_start_matches("http://").parse().expect("an address");
        let (api, s3) = (address(&service.url), address(service.s3.as_deref().expect("the embedded store")));
        Service { api, s3, _folder: folder, _runtime: runtime, _service: Mutex::new(service) }
    })
}

/// The status of the response.
fn send(address: SocketAddr, request: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(address).expect("the service listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    // The service may answer and close before it has read all.
    drop(stream.write_all(request));
    let mut head = [0; 12];
    stream.read_exact(&mut head).expect("a response");
    std::str::from_utf8(&head[9..]).ok().and_then(|status| status.parse().ok()).expect("a status")
}
