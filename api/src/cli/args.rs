//! The arguments.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use dandori::{
    DEFAULT_CONCURRENCY, DEFAULT_CRASH_LIMIT, DEFAULT_LEASE, Engine, EngineBuilder,
    SHORTEST_LEASE,
    spec::{format_duration, parse_duration},
    store::PostgresOptions,
};
use dandori_steps::{Network, Settings};

use super::{
    exit::{Exit, Failure},
    server::Server,
    text::quote,
};
use crate::graph::Format;

const DEFAULT_URL: &str = "sqlite:dandori.db";

/// What stands above the options that every command has.
const COMMON: &str = "Options of every command";

const EXIT_CODES: &str = "Exit codes: 0 succeeded, 1 project failed, 2 wrong usage or consent \
    missing, 3 document invalid, 4 not found, 5 cannot reach or not allowed, 6 cancelled, \
    124 timed out, 130/143 interrupted (everything recorded is kept).";

/// A durable workflow engine: projects of dependent steps, checkpointed, resumed after any
/// crash.
#[derive(Debug, Parser)]
#[command(name = "dandori", version, after_help = EXIT_CODES)]
pub(super) struct Args {
    /// The database: `sqlite:PATH` or `postgres://USER:PASSWORD@HOST/DATABASE`.
    #[arg(
        long,
        env = "DATABASE_URL",
        global = true, help_heading = COMMON,
        default_value = DEFAULT_URL,
        hide_env_values = true
    )]
    database_url: String,
    /// PostgreSQL past a connection pooler in transaction mode: for migrations and hints.
    #[arg(
        long,
        env = "DANDORI_DIRECT_URL",
        global = true, help_heading = COMMON,
        value_name = "URL",
        hide_env_values = true
    )]
    direct_url: Option<String>,
    /// Neither send nor hear hints of other processes (LISTEN and NOTIFY); polling is
    /// enough, a second slower.
    #[arg(long, env = "DANDORI_NO_NOTIFY", global = true, help_heading = COMMON)]
    no_notify: bool,
    /// Ask a server (`dandori serve`) instead of a database.
    #[arg(long, env = "DANDORI_SERVER", global = true, help_heading = COMMON, value_name = "URL")]
    server: Option<String>,
    /// The token for --server; for `serve` the first one, that of an admin. Better in the
    /// variable than on the command line, which everybody on the machine can read.
    #[arg(
        long,
        env = "DANDORI_TOKEN",
        global = true, help_heading = COMMON,
        value_name = "TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
    /// Print one JSON object (lists and streams: one a line) on stdout.
    #[arg(long, global = true, help_heading = COMMON)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a project of 20 tasks against services that fail and stall: the first minute.
    Demo(super::demo::Demo),
    /// Submit a project, execute it here, and wait for its end.
    Run(Run),
    /// Execute every unfinished project, or one; ends a pause.
    Resume(Resume),
    /// Execute what is recorded, beside other workers on the same PostgreSQL database.
    Worker(Worker),
    /// Serve the HTTP API and a page to look at, and execute.
    Serve(Serve),
    /// Make, list and revoke tokens for the HTTP API.
    #[command(subcommand)]
    Token(super::token::Token),
    /// Tell who has changed what over HTTP, newest first.
    Audit(super::audit::Audit),
    /// List the workers.
    Workers,
    /// List the kinds that tasks may have, or show the schemas of one.
    Kinds {
        /// A kind.
        kind: Option<String>,
    },
    /// Create or bring up to date the tables.
    Migrate,
    /// Record a project; whoever executes on the database starts it.
    Submit(Submit),
    /// List projects, newest first.
    List(super::list::List),
    /// Show a project: failures first.
    Show(Show),
    /// Follow a project until its end.
    Watch {
        /// An id, the end of one, a name, or `last`.
        id: String,
    },
    /// Print the log of a project or of one step.
    Logs {
        /// An id, the end of one, a name, or `last`.
        id: String,
        /// The step.
        step: Option<String>,
        /// Go on until the project ends.
        #[arg(short, long)]
        follow: bool,
    },
    /// Stop a project: nothing starts any more, running steps are told to stop.
    Cancel {
        /// An id, the end of one, a name, or `last`.
        id: String,
    },
    /// Start no further steps; running ones finish. `resume` goes on.
    Pause {
        /// An id, the end of one, a name, or `last`.
        id: String,
    },
    /// Start the next attempt now: of a step that waits for its retry, or of all that do.
    Retry {
        /// An id, the end of one, a name, or `last`.
        id: String,
        /// The step.
        step: Option<String>,
    },
    /// Tell why a step does not run yet.
    Why {
        /// An id, the end of one, a name, or `last`.
        id: String,
        /// The step.
        step: String,
    },
    /// List the queues, or pause one on all workers.
    Queues {
        #[command(subcommand)]
        what: Option<Queues>,
    },
    /// Run steps of an ended or paused project again: what failed, unless others are chosen.
    Replay(Box<super::replay::Replay>),
    /// Tell what differs between two projects, or two attempts of a step.
    Diff {
        /// An id, the end of one, a name, or `last`.
        a: String,
        /// Another one.
        #[arg(required_unless_present = "step", conflicts_with = "step")]
        b: Option<String>,
        /// Compare attempts of this step: the last two, unless others are named.
        #[arg(long)]
        step: Option<String>,
        /// Two attempts, as GENERATION.ATTEMPT: `1.1 2.1`.
        #[arg(long, num_args = 2, value_names = ["A", "B"], requires = "step")]
        attempts: Vec<String>,
    },
    /// Write an ended or paused project to one file, for any other database.
    Export {
        /// An id, the end of one, a name, or `last`.
        id: String,
        /// The file; standard output when left out.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Record a project from a file that `export` wrote; `replay` goes on with it.
    Import {
        /// The file, `-` for standard input.
        file: PathBuf,
        /// Give it another id: where there is one with its own.
        #[arg(long)]
        new_id: bool,
    },
    /// Make a new project that shares the results of an ended one, on a new document or not.
    Fork(Box<super::replay::Fork>),
    /// Tell who replayed a project and why, what it is a fork of, and its own forks.
    History {
        /// An id, the end of one, a name, or `last`.
        id: String,
    },
    /// Show what a step has kept inside itself while it ran.
    Checkpoints {
        /// An id, the end of one, a name, or `last`.
        id: String,
        /// The step.
        step: String,
    },
    /// Look at a document without running it.
    Validate(Validate),
    /// Draw a document or a project.
    Graph(Graph),
    /// Print the JSON Schema of the project document.
    Schema,
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// The name of a command that works on a database only.
    pub(super) fn on_a_database(&self) -> Option<&'static str> {
        Some(match self {
            Self::Demo(_) => "demo",
            Self::Run(_) => "run",
            Self::Worker(_) => "worker",
            Self::Serve(_) => "serve",
            Self::Migrate => "migrate",
            _ => return None,
        })
    }
}

/// What goes with every command that executes.
#[derive(Clone, Debug, ClapArgs)]
pub(super) struct Execution {
    /// How many steps run at once.
    #[arg(long, default_value_t = DEFAULT_CONCURRENCY)]
    pub(super) concurrency: usize,
    /// Allow `shell.run`.
    #[arg(long)]
    pub(super) allow_shell: bool,
    /// The folder that file steps read and write under.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(super) files_root: PathBuf,
    /// How many crashes of its worker quarantine a step; 0: none do.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CRASH_LIMIT)]
    pub(super) crash_limit: u32,
    /// How long this process is believed to be alive after its last sign of life: its work
    /// is taken over then. PostgreSQL only.
    #[arg(long, value_name = "DURATION", value_parser = lease, default_value = "10s")]
    pub(super) lease: std::time::Duration,
    /// Which addresses steps may reach.
    #[arg(long, value_enum, default_value_t = Reach::Any)]
    pub(super) network: Reach,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Reach {
    /// Any address.
    Any,
    /// Public addresses only.
    Public,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Run {
    /// The document (YAML or JSON), `-` for standard input.
    pub(super) file: PathBuf,
    /// A value of an input: `name=value`.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(super) input: Vec<String>,
    /// Give up waiting after this time; the project stays resumable.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Option<std::time::Duration>,
    #[command(flatten)]
    pub(super) execution: Execution,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Resume {
    /// An id, the end of one, a name, or `last`; every unfinished project when left out.
    pub(super) id: Option<String>,
    #[command(flatten)]
    pub(super) execution: Execution,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Submit {
    /// The document (YAML or JSON), `-` for standard input.
    pub(super) file: PathBuf,
    /// A value of an input: `name=value`.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(super) input: Vec<String>,
    /// Wait for the end; execute here when nobody else does.
    #[arg(long)]
    pub(super) wait: bool,
    #[command(flatten)]
    pub(super) execution: Execution,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Worker {
    /// The queues whose steps it runs.
    #[arg(
        long,
        value_name = "NAME,…",
        value_delimiter = ',',
        default_value = "default"
    )]
    pub(super) queues: Vec<String>,
    #[command(flatten)]
    pub(super) execution: Execution,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Serve {
    /// Where it listens; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7070")]
    pub(super) listen: std::net::SocketAddr,
    /// Execute nothing: workers do.
    #[arg(long)]
    pub(super) no_worker: bool,
    /// A name by which it is called, beside those of the loopback interface; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub(super) host: Vec<String>,
    #[command(flatten)]
    pub(super) worker: Worker,
}

#[derive(Debug, Subcommand)]
pub(super) enum Queues {
    /// Start no further steps of a queue; running ones finish.
    Pause {
        /// Its name.
        queue: String,
    },
    /// Let the steps of a queue start again.
    Resume {
        /// Its name.
        queue: String,
    },
}

#[derive(Debug, ClapArgs)]
pub(super) struct Show {
    /// An id, the end of one, a name, or `last`.
    pub(super) id: String,
    /// Show earlier attempts too.
    #[arg(long)]
    pub(super) attempts: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Validate {
    /// The document (YAML or JSON), `-` for standard input.
    pub(super) file: PathBuf,
    /// A value of an input: `name=value`.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(super) input: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Graph {
    /// A document, or an id, the end of one, a name, or `last`.
    pub(super) what: String,
    /// How to draw it.
    #[arg(long, default_value = "text", value_name = "svg|dot|mermaid|text")]
    pub(super) format: Format,
}

fn duration(text: &str) -> Result<std::time::Duration, String> {
    parse_duration(text)
}

fn lease(text: &str) -> Result<std::time::Duration, String> {
    let lease = parse_duration(text)?;
    if lease < SHORTEST_LEASE {
        return Err("a lease is at least 1s".to_owned());
    }
    Ok(lease)
}

/// What all commands have in common.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) url: String,
    pub(super) direct_url: Option<String>,
    pub(super) notify: bool,
    pub(super) server: Option<String>,
    pub(super) token: Option<String>,
    pub(super) json: bool,
}

impl Args {
    pub(super) fn common(&self) -> Common {
        // An empty variable is one that is not set.
        let url = match self.database_url.trim() {
            "" => DEFAULT_URL.to_owned(),
            url => url.to_owned(),
        };
        let direct_url = self.direct_url.clone().filter(|url| !url.trim().is_empty());
        let given = |text: &Option<String>| {
            text.as_deref()
                .map(str::trim)
                .filter(|it| !it.is_empty())
                .map(str::to_owned)
        };
        Common {
            url,
            direct_url,
            notify: !self.no_notify,
            server: given(&self.server),
            token: given(&self.token),
            json: self.json,
        }
    }
}

impl Common {
    /// The server that is asked, where it is one and not a database.
    pub(super) fn remote(&self) -> Result<Option<Server>, Failure> {
        let server = self.server.as_deref();
        server.map(|address| Server::new(address, self.token.as_deref())).transpose()
    }

    /// Refuses what only works on a database.
    pub(super) fn without_server(&self, command: &str) -> Result<(), Failure> {
        if self.server.is_none() {
            return Ok(());
        }
        let message = format!("`{command}` works on a database, not on a server");
        Err(Failure::usage(message, "leave --server and DANDORI_SERVER out"))
    }

    /// The option that names the same database, for a command line to be pasted. A password
    /// is not repeated on the terminal: the variable holds it.
    pub(super) fn database_words(&self) -> String {
        let address = self.url.split_once("://").map_or("", |(_, address)| address);
        let user = address.split_once('@').map_or("", |(user, _)| user);
        let url = match user.contains(':') || self.url.contains("password=") {
            true => "\"$DATABASE_URL\"".to_owned(),
            false => quote(&self.url),
        };
        format!("--database-url {url}")
    }

    /// Whether it is a server, on which many workers execute.
    pub(super) fn is_server(&self) -> bool {
        matches!(self.file(), Ok(None))
    }

    /// The file behind the database URL; `None` for a server.
    pub(super) fn file(&self) -> Result<Option<PathBuf>, Failure> {
        if self.url.starts_with("postgres://") || self.url.starts_with("postgresql://")
        {
            return Ok(None);
        }
        let path = self
            .url
            .strip_prefix("sqlite://")
            .or_else(|| self.url.strip_prefix("sqlite:"));
        if let Some(path) = path.filter(|path| !path.is_empty() && *path != ":memory:")
        {
            return Ok(Some(PathBuf::from(path.split('?').next().unwrap_or(path))));
        }
        // The URL may hold a password: only its scheme is repeated.
        let message = match self.url.split_once(':') {
            Some((scheme, _)) => format!("`{scheme}:` is no database here"),
            None => "the database URL names no scheme".to_owned(),
        };
        Err(Failure::Own {
            exit: Exit::Unreachable,
            code: "database_url",
            message,
            help: "write `sqlite:PATH`, for example sqlite:dandori.db, or \
                `postgres://USER:PASSWORD@HOST/DATABASE`"
                .to_owned(),
        })
    }

    fn server(&self, create: bool) -> PostgresOptions {
        PostgresOptions {
            direct_url: self.direct_url.clone(),
            create,
            notify: self.notify,
            ..PostgresOptions::new(self.url.clone())
        }
    }

    /// The beginnings of an engine on a database that must exist.
    pub(super) fn existing(&self) -> Result<EngineBuilder, Failure> {
        Ok(match self.file()? {
            Some(path) => Engine::builder().existing_sqlite(path),
            None => Engine::builder().postgres_with(self.server(false)),
        })
    }

    /// An engine that only reads and sends messages; the database must exist.
    pub(super) async fn connect(&self) -> Result<Engine, Failure> {
        Ok(self.existing()?.connect().await?)
    }

    /// The beginnings of an engine that creates its database on first use.
    pub(super) fn builder(&self) -> Result<EngineBuilder, Failure> {
        let Some(path) = self.file()? else {
            return Ok(Engine::builder().postgres_with(self.server(true)));
        };
        if !path.exists() {
            anstream::eprintln!("creating {}", path.display());
        }
        Ok(Engine::builder().sqlite(path))
    }
}

impl Execution {
    /// The settings of the ready-made kinds. Steps do not reach the database.
    pub(super) fn settings(&self, database: Option<&Path>) -> Settings {
        let settings = match database {
            Some(database) => Settings::from_env().with_protected_database(database),
            None => Settings::from_env(),
        };
        settings
            .with_files_root(&self.files_root)
            .with_allow_shell(self.allow_shell)
            .with_network(match self.network {
                Reach::Any => Network::Any,
                Reach::Public => Network::Public,
            })
    }

    /// The options that are not at their defaults, for a command that goes on.
    pub(super) fn words(&self) -> String {
        let mut words = String::new();
        if self.concurrency != DEFAULT_CONCURRENCY {
            let _ = write!(words, " --concurrency {}", self.concurrency);
        }
        if self.allow_shell {
            words.push_str(" --allow-shell");
        }
        if self.files_root != Path::new(".") {
            let root = quote(&self.files_root.display().to_string());
            let _ = write!(words, " --files-root {root}");
        }
        if self.crash_limit != DEFAULT_CRASH_LIMIT {
            let _ = write!(words, " --crash-limit {}", self.crash_limit);
        }
        if self.lease != DEFAULT_LEASE {
            let _ = write!(words, " --lease {}", format_duration(self.lease));
        }
        if matches!(self.network, Reach::Public) {
            words.push_str(" --network public");
        }
        words
    }

    /// Adds handlers and limits to an engine.
    pub(super) fn equip(
        &self,
        builder: EngineBuilder,
        settings: &Settings,
        command: &str,
    ) -> Result<EngineBuilder, Failure> {
        let kinds = dandori_steps::kinds(settings).map_err(|error| Failure::Own {
            exit: Exit::Unreachable,
            code: "settings",
            message: error.to_string(),
            help: "mend the option or environment variable named".to_owned(),
        })?;
        Ok(builder
            .handlers(kinds)
            .concurrency(self.concurrency.max(1))
            .crash_limit(self.crash_limit)
            .lease(self.lease)
            .command(format!("dandori {command}")))
    }
}
