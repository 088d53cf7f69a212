//! A private PostgreSQL server for the tests of this process, and a fresh schema for each.
//!
//! It is started with the first test that asks and ends with the process, however that
//! ends: a shell holds it, and stops it when its standard input closes. It listens on a
//! socket in a temporary folder only. `DANDORI_TEST_PG_URL` names another server instead.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

/// Where the programs of PostgreSQL are, when they are not on the path.
const PLACES: &str = "/usr/lib/postgresql";

/// The script that holds the server. `$1`: programs, `$2`: folder, `$3`: port or 0.
const HOLD: &str = r#"
set -e
export PATH="$1:$PATH" LC_ALL=C
initdb -D "$2/data" -A trust -U dandori -E UTF8 >"$2/initdb.log" 2>&1
cat >>"$2/data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
port = $3
unix_socket_directories = '$2'
max_connections = 200
# The files of its log are kept, as on a server that has been in use.
min_wal_size = 1GB
log_min_messages = warning
CONF
pg_ctl -D "$2/data" -l "$2/log" -w start >/dev/null
echo ready
cat >/dev/null
pg_ctl -D "$2/data" -m immediate stop >/dev/null 2>&1 || true
rm -rf "$2"
"#;

/// A server.
pub(crate) struct Cluster {
    /// Its address, without a schema.
    url: String,
    /// The shell that holds it, when it is ours.
    _holder: Option<Child>,
    /// Its folder and programs, when it is ours.
    place: Option<(PathBuf, PathBuf)>,
}

static SHARED: LazyLock<Cluster> = LazyLock::new(Cluster::start);
static SCHEMAS: AtomicU32 = AtomicU32::new(0);

impl Cluster {
    /// The server that all tests share.
    pub(crate) fn shared() -> &'static Self {
        &SHARED
    }

    fn start() -> Self {
        match std::env::var("DANDORI_TEST_PG_URL") {
            Ok(url) if !url.is_empty() => Self { url, _holder: None, place: None },
            _ => Self::private(),
        }
    }

    /// A server of its own, for a test that stops it.
    pub(crate) fn private() -> Self {
        let programs = programs().expect(
            "PostgreSQL is needed: install postgresql, or set DANDORI_TEST_PG_URL",
        );
        // A short name: the path of a socket has at most 107 bytes.
        let folder = std::env::temp_dir().join(format!(
            "dndr-pg-{}-{}",
            std::process::id(),
            SCHEMAS.fetch_add(1, Ordering::SeqCst)
        ));
        std::fs::create_dir(&folder).unwrap();
        let port = free_port();
        let mut command = Command::new("sh");
        command.args(["-c", HOLD, "sh"]).arg(&programs).arg(&folder);
        command.arg(port.to_string());
        if let Some((user, group)) = unprivileged() {
            std::os::unix::fs::chown(&folder, Some(user), Some(group)).unwrap();
            command.uid(user).gid(group);
        }
        let mut holder = command
            .current_dir(&folder)
            // A group of its own: a signal to the tests must not end it before them.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said.trim(), "ready", "the server did not start: {folder:?}");
        let socket = folder.display();
        let url = format!("postgres://dandori@localhost:{port}/postgres?host={socket}");
        Self { url, _holder: Some(holder), place: Some((folder, programs)) }
    }

    /// The address of a fresh schema.
    pub(crate) fn fresh(&self) -> String {
        let number = SCHEMAS.fetch_add(1, Ordering::SeqCst);
        let process = std::process::id();
        let join = if self.url.contains('?') { '&' } else { '?' };
        format!("{}{join}schema=test_{process}_{number}", self.url)
    }

    /// Stops the server at once, as a crash would, or starts it again.
    pub(crate) fn control(&self, action: &[&str]) {
        let (folder, programs) = self.place.as_ref().expect("a server of our own");
        let mut command = Command::new(programs.join("pg_ctl"));
        command.arg("-D").arg(folder.join("data")).arg("-l").arg(folder.join("log"));
        command.arg("-w").args(action).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some((user, group)) = unprivileged() {
            command.uid(user).gid(group);
        }
        let done = command.current_dir(folder).status().unwrap();
        assert!(done.success(), "pg_ctl {action:?}");
    }
}

/// The folder of the programs, newest version first.
fn programs() -> Option<PathBuf> {
    let said = Command::new("pg_config").arg("--bindir").output().ok();
    let said = said
        .map(|said| PathBuf::from(String::from_utf8_lossy(&said.stdout).trim()))
        .filter(|place| place.join("initdb").exists());
    let mut places: Vec<PathBuf> = std::fs::read_dir(PLACES)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|place| place.join("initdb").exists())
        .collect();
    places.sort();
    said.or_else(|| places.pop())
}

/// The server refuses to run as root: somebody else runs it then.
fn unprivileged() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| -> Option<u32> {
        let said = Command::new("id").args(arguments).output().ok()?;
        String::from_utf8_lossy(&said.stdout).trim().parse().ok()
    };
    if id(&["-u"]) != Some(0) {
        return None;
    }
    let user = ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| Some((id(&["-u", name])?, id(&["-g", name])?)));
    Some(user.expect("a user that is not root"))
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
