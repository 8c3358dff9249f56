//! Real PostgreSQL: one server per nextest run (`scripts/test-postgres.sh`) or else per process, and one database per
//! test.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use sqlx::{Connection, Executor, PgConnection};

/// A database that is dropped with this value.
pub struct Server {
    host: Arc<Host>,
    database: String,
}

/// The server of a database.
enum Host {
    /// Shared by all tests of the run; it outlives them.
    Run(String),
    /// Stops with its last database.
    Own(Process),
}

struct Process {
    child: Mutex<Child>,
    port: u16,
    folder: tempfile::TempDir,
}

/// `scripts/test-postgres.sh` puts the URL of its server into this variable.
const RUN_VARIABLE: &str = "AFTERLOAD_TEST_POSTGRES";

static STARTING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
static SHARED: Mutex<Weak<Host>> = Mutex::new(Weak::new());
static DATABASES: AtomicU32 = AtomicU32::new(0);

impl Server {
    /// Creates an empty database.
    pub async fn start() -> Self {
        let _turn = STARTING.lock().await;
        let running = SHARED.lock().unwrap().upgrade();
        let host = match running {
            Some(host) => host,
            None => {
                let host = Arc::new(match std::env::var(RUN_VARIABLE) {
                    Ok(url) => Host::Run(url),
                    Err(_) => Host::Own(Process::start().await),
                });
                *SHARED.lock().unwrap() = Arc::downgrade(&host);
                host
            }
        };
        Self::create(host).await
    }

    /// Creates an empty database on a server of its own, which the test may stop.
    pub async fn start_alone() -> Self {
        Self::create(Arc::new(Host::Own(Process::start().await))).await
    }

    /// Creates another empty database on the same server.
    pub async fn beside(&self) -> Self {
        Self::create(self.host.clone()).await
    }

    async fn create(host: Arc<Host>) -> Self {
        let number = DATABASES.fetch_add(1, Ordering::Relaxed);
        let database = format!("test_{}_{number}", std::process::id());
        let mut admin = PgConnection::connect(&host.url("postgres")).await.unwrap();
        admin.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {database}"))).await.unwrap();
        Self { host, database }
    }

    /// Restarts the server in fast mode, which ends all sessions.
    pub async fn restart(&self) {
        let Host::Own(process) = &*self.host else { panic!("others use this server; take `Server::start_alone`") };
        process.restart().await;
    }

    /// `postgres://…`
    pub fn url(&self) -> String {
        self.host.url(&self.database)
    }
}

impl Drop for Server {
    /// Killed processes may have left sessions, so disconnect them. A server of its own is removed with its databases.
    fn drop(&mut self) {
        let Host::Run(server) = &*self.host else { return };
        let mut command = Command::new(find("dropdb"));
        command.args(["--force", "--maintenance-db", &format!("{server}/postgres"), &self.database]);
        let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

impl Host {
    fn url(&self, database: &str) -> String {
        match self {
            Self::Run(server) => format!("{server}/{database}"),
            Self::Own(process) => process.url(database),
        }
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

/// SIGINT is PostgreSQL's fast shutdown.
fn stop(child: &mut Child) {
    let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    let _ = child.wait();
}

/// PostgreSQL refuses to run as root, so root runs it as the user of its package.
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

/// Searches Debian's folder, and then PATH.
fn find(name: &str) -> PathBuf {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = debian.map(|version| version.path().join("bin").join(name)).filter(|path| path.exists()).max();
    let on_path =
        || std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.exists());
    newest
        .or_else(on_path)
        .unwrap_or_else(|| panic!("`{name}` is missing; install it with: apt-get install postgresql"))
}
