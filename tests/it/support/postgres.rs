//! Real PostgreSQL: one server for all tests of a process, on a free port, and a database for each.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use sqlx::{Connection, Executor, PgConnection};

/// An empty database on the shared server; the server stops with the last of them.
pub struct Server {
    process: Arc<Process>,
    database: String,
}

struct Process {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

static STARTING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
static SHARED: Mutex<Weak<Process>> = Mutex::new(Weak::new());
static DATABASES: AtomicU32 = AtomicU32::new(0);

impl Server {
    /// An empty database.
    pub async fn start() -> Self {
        let process = {
            let _turn = STARTING.lock().await;
            let running = SHARED.lock().unwrap().upgrade();
            match running {
                Some(process) => process,
                None => {
                    let started = Arc::new(Process::start().await);
                    *SHARED.lock().unwrap() = Arc::downgrade(&started);
                    started
                }
            }
        };
        let database = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let mut admin = PgConnection::connect(&process.url("postgres")).await.unwrap();
        admin.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {database}"))).await.unwrap();
        Self { process, database }
    }

    /// `postgres://…`
    pub fn url(&self) -> String {
        self.process.url(&self.database)
    }
}

impl Process {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let owner = owner();
        if let Some((user, group)) = owner {
            for path in [folder.path(), data.as_path()] {
                std::os::unix::fs::chown(path, Some(user), Some(group)).unwrap();
            }
        }
        let mut init = command("initdb", owner);
        init.arg("-D").arg(&data).args(["-N", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"]);
        let made = init.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut run = command("postgres", owner);
        run.arg("-D").arg(&data).arg("-k").arg(folder.path()).args(["-F", "-h", "127.0.0.1", "-p", &port.to_string()]);
        let child = run.stderr(Stdio::null()).spawn().unwrap();
        let process = Self { child, port, _folder: folder };
        super::eventually("PostgreSQL listening", async || PgConnection::connect(&process.url("postgres")).await.ok())
            .await;
        process
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGINT ends all sessions and stops.
        let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

/// PostgreSQL refuses to run as root: then it runs as the user that its package made.
fn owner() -> Option<(u32, u32)> {
    let id = |args: &[&str]| {
        let output = Command::new("id").args(args).output().ok()?;
        String::from_utf8_lossy(&output.stdout).trim().parse::<u32>().ok()
    };
    (id(&["-u"]) == Some(0)).then(|| (id(&["-u", "postgres"]).unwrap(), id(&["-g", "postgres"]).unwrap()))
}

fn command(name: &str, owner: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(find(name));
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
    if let Some((user, group)) = owner {
        command.uid(user).gid(group);
    }
    command
}

/// Where Debian keeps it, or from PATH.
fn find(name: &str) -> PathBuf {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = debian.map(|version| version.path().join("bin").join(name)).filter(|path| path.exists()).max();
    let on_path =
        || std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.exists());
    newest
        .or_else(on_path)
        .unwrap_or_else(|| panic!("`{name}` is missing; install it with: apt-get install postgresql"))
}
