//! Third-party clients and servers from the Python environment of the tests.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Returns the Python of the tests.
pub fn python() -> PathBuf {
    std::env::var("AFTERLOAD_TEST_PYTHON").map_or_else(|_| "python3".into(), PathBuf::from)
}

/// Returns a client for servers on this machine. It knows no certificates: loading those of the system takes longer than
/// many tests.
pub fn http_client() -> reqwest::Client {
    reqwest::Client::builder().tls_certs_only([]).build().expect("a client")
}

/// Returns a program of the environment of this Python.
pub fn tool(name: &str) -> PathBuf {
    let beside = python().with_file_name(name);
    assert!(
        beside.exists(),
        "there is no `{}`; set AFTERLOAD_TEST_PYTHON to a Python with the packages of scripts/test-requirements.txt \
         (scripts/test.sh makes one)",
        beside.display()
    );
    beside
}

/// A third-party S3: moto, on a free port, until it is dropped.
pub struct Moto {
    _child: Child,
    /// The URL of the endpoint.
    pub endpoint: String,
}

impl Moto {
    /// Creates a client.
    pub fn sdk(&self) -> aws_sdk_s3::Client {
        crate::objects::sdk(&self.endpoint, "key", "secret")
    }

    /// Starts the server.
    pub async fn start() -> Self {
        let script = "import sys\nfrom moto.server import ThreadedMotoServer\n\
                      server = ThreadedMotoServer('127.0.0.1', 0, verbose=False)\nserver.start()\n\
                      print('%s:%s' % server.get_host_and_port(), flush=True)\nsys.stdin.read()\n";
        let mut child = Command::new(python())
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("Python starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let address = lines.next_line().await.expect("its output");
        let address = address.expect("moto starts; install it with: pip install -r scripts/test-requirements.txt");
        Self { _child: child, endpoint: format!("http://{address}") }
    }
}
