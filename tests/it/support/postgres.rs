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

/// The database with the tables of the service that tests of the run copy.
const TEMPLATE: &str = "afterload_template";
/// As SQL names the lock under which the template is made.
const TEMPLATE_LOCK: &str = "SELECT pg_advisory_lock(20261201)";

impl Server {
    /// Creates an empty database.
    pub async fn start() -> Self {
        Self::create(shared_host().await, None).await
    }

    /// Creates a database that has the tables of the service already, if others of the run need them too.
    pub async fn start_migrated() -> Self {
        let host = shared_host().await;
        if matches!(*host, Host::Own(_)) {
            return Self::create(host, None).await;
        }
        ensure_template(&host).await;
        Self::create(host, Some(TEMPLATE)).await
    }

    /// Creates an empty database on a server of its own, which the test may stop.
    pub async fn start_alone() -> Self {
        Self::create(Arc::new(Host::Own(Process::start().await)), None).await
    }

    /// Creates another empty database on the same server.
    pub async fn beside(&self) -> Self {
        Self::create(self.host.clone(), None).await
    }

    async fn create(host: Arc<Host>, template: Option<&str>) -> Self {
        let number = DATABASES.fetch_add(1, Ordering::Relaxed);
        let database = format!("test_{}_{number}", std::process::id());
        let mut admin = PgConnection::connect(&host.url("postgres")).await.unwrap();
        let template = template.map(|name| format!(" TEMPLATE {name}")).unwrap_or_default();
        admin.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {database}{template}"))).await.unwrap();
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

/// The server of the run, or one for this process.
async fn shared_host() -> Arc<Host> {
    let _turn = STARTING.lock().await;
    let running = SHARED.lock().unwrap().upgrade();
    if let Some(host) = running {
        return host;
    }
    let host = Arc::new(match std::env::var(RUN_VARIABLE) {
        Ok(url) => Host::Run(url),
        Err(_) => Host::Own(Process::start().await),
    });
    *SHARED.lock().unwrap() = Arc::downgrade(&host);
    host
}

/// The first test of the run makes the template; others wait for it.
async fn ensure_template(host: &Host) {
    let mut admin = PgConnection::connect(&host.url("postgres")).await.unwrap();
    let exists = format!("SELECT 1 FROM pg_database WHERE datname = '{TEMPLATE}'");
    let exists = || sqlx::AssertSqlSafe(exists.clone());
    if admin.fetch_optional(exists()).await.unwrap().is_none() {
        // The lock ends with the connection.
        admin.execute(TEMPLATE_LOCK).await.unwrap();
        if admin.fetch_optional(exists()).await.unwrap().is_none() {
            // A template whose making failed is left half made, under another name.
            let new = format!("{TEMPLATE}_new");
            for sql in [format!("DROP DATABASE IF EXISTS {new} WITH (FORCE)"), format!("CREATE DATABASE {new}")] {
                admin.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
            }
            super::template::migrate(&host.url(&new)).await;
            let rename = format!("ALTER DATABASE {new} RENAME TO {TEMPLATE}");
            admin.execute(sqlx::AssertSqlSafe(rename)).await.unwrap();
        }
    }
    admin.close().await.unwrap();
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
