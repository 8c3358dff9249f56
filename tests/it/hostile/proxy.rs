//! Behind nginx, set up as docs/reverse-proxy.md says: uploads, events, the address of the client, and HTTPS.

use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::support::{ADMIN_KEY, Database, Place, eventually, python};

const PIPELINE: &str =
    "name: up\nparams: { file: { type: file } }\nsteps: [{ id: one, uses: wait, with: { event: go } }]\n";

/// A certificate for `localhost` and the one that signed it.
const MAKE_CERTIFICATE: &str = "
import sys, trustme
authority = trustme.CA()
authority.cert_pem.write_to_path(sys.argv[1] + '/ca.pem')
certificate = authority.issue_cert('localhost')
certificate.private_key_pem.write_to_path(sys.argv[1] + '/key.pem')
for at, part in enumerate(certificate.cert_chain_pems):
    part.write_to_path(sys.argv[1] + '/cert.pem', append=at > 0)
";

/// nginx until it is dropped.
struct Nginx {
    _child: Child,
    http: u16,
    https: u16,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn nginx_program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let mut programs = folders.map(|folder| folder.join("nginx"));
    programs.find(|program| program.exists()).expect("nginx is installed, from the Debian package `nginx-light`")
}

/// The configuration of the documentation, for these ports and files.
fn documented_config(dir: &Path, service: &str, http: u16, https: u16) -> String {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reverse-proxy.md")).unwrap();
    let (_, rest) = page.split_once("```nginx\n").unwrap();
    let mut server = rest.split_once("```").unwrap().0.to_owned();
    let dir = dir.display();
    for (documented, ours) in [
        ("listen 80;", format!("listen 127.0.0.1:{http};")),
        ("listen 443 ssl;", format!("listen 127.0.0.1:{https} ssl;")),
        ("server_name jobs.example.com;", "server_name localhost;".to_owned()),
        ("https://$host$request_uri", format!("https://$host:{https}$request_uri")),
        ("/etc/ssl/jobs.example.com.pem", format!("{dir}/cert.pem")),
        ("/etc/ssl/jobs.example.com.key", format!("{dir}/key.pem")),
        ("http://127.0.0.1:8080", service.to_owned()),
    ] {
        assert!(server.contains(documented), "{documented} is in the documentation");
        server = server.replace(documented, &ours);
    }
    let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let folders = folders.map(|name| format!("{name}_temp_path {dir}/{name};\n")).concat();
    format!(
        "daemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log {dir}/error.log;\nevents {{}}\n\
         http {{\naccess_log off;\n{folders}{server}\n}}\n"
    )
}

impl Nginx {
    async fn start(dir: &Path, service: &str) -> Self {
        let made = Command::new(python()).args(["-c", MAKE_CERTIFICATE]).arg(dir).status().await.unwrap();
        assert!(made.success(), "trustme makes a certificate");
        // Another program may take a free port before nginx does.
        for _ in 0..5 {
            let (http, https) = (free_port(), free_port());
            std::fs::write(dir.join("nginx.conf"), documented_config(dir, service, http, https)).unwrap();
            let mut command = Command::new(nginx_program());
            command.arg("-p").arg(dir).arg("-c").arg(dir.join("nginx.conf")).stderr(Stdio::null()).kill_on_drop(true);
            let mut child = command.spawn().expect("nginx starts");
            let up = eventually("nginx", async || {
                let dead = child.try_wait().unwrap().is_some();
                let up = tokio::net::TcpStream::connect(("127.0.0.1", https)).await.is_ok();
                (dead || up).then_some(up && !dead)
            });
            if up.await {
                return Self { _child: child, http, https };
            }
        }
        panic!("nginx does not start: {:?}", std::fs::read_to_string(dir.join("error.log")));
    }
}

/// The address that the service listens on, from its log.
fn listen_address(log: &str) -> Option<String> {
    let line = log.lines().find(|line| line.contains("afterload is up"))?;
    let line: Value = serde_json::from_str(line).expect("a line of JSON");
    Some(line["listen"].as_str().expect("an address").to_owned())
}

/// A client from an address of its own, which is not that of the proxy.
fn client(dir: &Path) -> Client {
    let authority = Certificate::from_pem(&std::fs::read(dir.join("ca.pem")).unwrap()).unwrap();
    let address: IpAddr = [127, 0, 0, 2].into();
    let builder = Client::builder().add_root_certificate(authority).local_address(address).redirect(Policy::none());
    builder.resolve("localhost", ([127, 0, 0, 1], 0).into()).build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documented_nginx_passes_on_uploads_events_and_addresses() {
    let mut place = Place::new(Database::Sqlite).await;
    std::fs::write(place.dir.path().join("pipelines/up.yaml"), PIPELINE).unwrap();
    place.set("PUBLIC_URL", "https://localhost");
    place.set("TRUSTED_PROXIES", "[127.0.0.1]");
    let process = place.serve(&[]).await;
    let address = eventually("the address of the service", async || listen_address(&place.log())).await;
    let nginx = Nginx::start(place.dir.path(), &format!("http://{address}")).await;
    let (client, base) = (client(place.dir.path()), format!("https://localhost:{}", nginx.https));

    let plain = client.get(format!("http://localhost:{}/healthz?a=b", nginx.http)).send().await.unwrap();
    let there = plain.headers()["location"].to_str().unwrap();
    assert_eq!((plain.status().as_u16(), there), (301, format!("{base}/healthz?a=b").as_str()));
    let healthy = client.get(format!("{base}/healthz")).send().await.unwrap();
    assert_eq!(healthy.headers()["strict-transport-security"], "max-age=31536000");
    assert_eq!(healthy.headers().get_all("strict-transport-security").iter().count(), 1);
    assert_eq!(client.get(format!("{base}/metrics")).send().await.unwrap().status(), 404);

    // More than the megabyte that nginx allows by itself.
    let part = reqwest::multipart::Part::bytes(vec![b'x'; 8 << 20]).file_name("big.bin");
    let form = reqwest::multipart::Form::new().part("file", part);
    let forged = client.post(format!("{base}/v1/pipelines/up/runs")).bearer_auth(ADMIN_KEY).multipart(form);
    let forged = forged.header("x-forwarded-for", "192.0.2.7").header("forwarded", "for=192.0.2.7");
    let answer = forged.header("x-request-id", "big-upload").send().await.unwrap();
    assert_eq!(answer.status(), 202);
    let run: Value = answer.json().await.unwrap();
    assert_eq!(run["params"]["file"]["size"], 8 << 20);
    let line = eventually("the log of the upload", async || {
        let log = place.log();
        log.lines().find(|line| line.contains("big-upload") && line.contains("request served")).map(str::to_owned)
    })
    .await;
    assert!(line.contains("\"client.address\":\"127.0.0.2\""), "{line}");
    assert!(!place.log().contains("192.0.2.7"), "a client cannot invent an address");

    // Events arrive while the run waits; they are not held back until it ends.
    let events = format!("{base}/v1/runs/{}/events", run["id"].as_str().unwrap());
    let mut events = client.get(events).bearer_auth(ADMIN_KEY).send().await.unwrap();
    let mut text = String::new();
    while !text.contains("\"suspended\"") {
        text += &String::from_utf8_lossy(&events.chunk().await.unwrap().expect("an event of the waiting run"));
    }
    let go = client.post(format!("{base}/v1/events/go")).bearer_auth(ADMIN_KEY).json(&json!({})).send().await.unwrap();
    assert_eq!(go.status(), 202);
    while let Some(chunk) = events.chunk().await.unwrap() {
        text += &String::from_utf8_lossy(&chunk);
    }
    assert!(text.contains("event: end\ndata: {\"status\":\"succeeded\"}"), "{text}");
    drop(nginx);
    process.terminate().await;
}
