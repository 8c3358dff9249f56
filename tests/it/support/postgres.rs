//! Real PostgreSQL: one server for all tests of a process, on a free port, and a database for each.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
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
    child: Mutex<Child>,
    port: u16,
    folder: tempfile::TempDir,
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
        Self::on(process).await
    }

    /// An empty database on a server that nobody else uses, so that it may be stopped.
    pub async fn start_alone() -> Self {
        Self::on(Arc::new(Process::start().await)).await
    }

    /// Another empty database on the same server.
    pub async fn beside(&self) -> Self {
        Self::on(self.process.clone()).await
    }

    async fn on(process: Arc<Process>) -> Self {
        let database = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let mut admin = PgConnection::connect(&process.url("postgres")).await.unwrap();
        admin.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {database}"))).await.unwrap();
        Self { process, database }
    }

    /// Stops the server as an administrator in a hurry does, all sessions with it, and starts it again.
    pub async fn restart(&self) {
        self.process.restart().await;
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
        let process = Self { child: Mutex::new(serve(folder.path(), port)), port, folder };
        process.until_it_listens().await;
        process
    }

    async fn until_it_listens(&self) {
        super::eventually("PostgreSQL listening", async || PgConnection::connect(&self.url("postgres")).await.ok())
            .await;
    }

    async fn restart(&self) {
        {
            let mut child = self.child.lock().unwrap();
            stop(&mut child);
            *child = serve(self.folder.path(), self.port);
        }
        self.until_it_listens().await;
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        stop(&mut self.child.lock().unwrap());
    }
}

fn serve(folder: &Path, port: u16) -> Child {
    let mut run = command("postgres", owner());
    run.arg("-D").arg(folder.join("data")).arg("-k").arg(folder);
    run.args(["-F", "-h", "127.0.0.1", "-p", &port.to_string()]).stderr(Stdio::null()).spawn().unwrap()
}

/// SIGINT ends all sessions and stops.
fn stop(child: &mut Child) {
    let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    let _ = child.wait();
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
