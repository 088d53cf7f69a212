//! [`Server`]: what the commands ask of `dandori serve`, over HTTP.
//!
//! A stream that breaks off is taken up again after the last event that was seen.

use std::{
    collections::BTreeMap,
    pin::Pin,
    time::{Duration, Instant},
};

use dandori::{EventView, Project, ProjectView, Why, spec::Diagnostic};
use futures_util::{Stream, StreamExt as _};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url, header};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use sse_stream::{Sse, SseStream};
use tokio::sync::Mutex;

use super::{
    document,
    exit::{Exit, Failure},
};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a server may say nothing: a request is applied within two seconds, and a stream
/// says something every 15 seconds.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a server may be away while a project is followed.
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(500);
/// The most entries of a page.
const PAGE: usize = 500;
/// A stream that lasted so long was one: what breaks it off is new.
const LASTED: Duration = Duration::from_secs(5);

/// A server with the right to ask it.
#[derive(Clone, Debug)]
pub(super) struct Server {
    base: Url,
    token: Option<String>,
    client: Client,
}

/// What is submitted: a document and what goes beside it.
#[derive(Serialize)]
pub(super) struct Submission<'a> {
    pub(super) document: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<&'a str>,
    pub(super) inputs: BTreeMap<&'a str, Value>,
    pub(super) files: BTreeMap<String, String>,
}

impl<'a> Submission<'a> {
    /// With the files that the document names, read here.
    pub(super) fn of(
        project: &'a Project,
        inputs: &'a [String],
    ) -> Result<Self, Failure> {
        let (compiled, _) = project.compile(None)?;
        Ok(Self {
            document: project.text().unwrap_or_default(),
            name: project.document().name.as_deref(),
            inputs: document::input_values(project, inputs)?,
            files: compiled.files,
        })
    }
}

/// What became of a request.
#[derive(Deserialize)]
pub(super) struct Steered {
    request: String,
}

impl Steered {
    pub(super) fn is_applied(&self) -> bool {
        self.request == "applied"
    }
}

/// A line of a log.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Line {
    pub(super) at: dandori::Timestamp,
    pub(super) step: String,
    pub(super) generation: u32,
    pub(super) attempt: u32,
    pub(super) line: String,
}

/// An attempt.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct PastAttempt {
    pub(super) step: String,
    pub(super) generation: u32,
    pub(super) attempt: u32,
    pub(super) state: dandori::run::StepState,
    pub(super) started_at: Option<dandori::Timestamp>,
    pub(super) finished_at: Option<dandori::Timestamp>,
    pub(super) error: Option<dandori::StepError>,
    #[serde(default)]
    pub(super) output: Option<Box<serde_json::value::RawValue>>,
}

/// An error as the server tells it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: String,
    detail: String,
    help: String,
    errors: Vec<Diagnostic>,
}

impl Server {
    pub(super) fn new(address: &str, token: Option<&str>) -> Result<Self, Failure> {
        let wrong = |message: String| {
            let help = "write --server http://HOST:PORT, or https://…";
            Failure::usage(message, help)
        };
        let base = Url::parse(address)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| wrong(format!("`{address}` is no address of a server")))?;
        if !base.username().is_empty() || base.password().is_some() {
            return Err(wrong("a server is asked with a token, not a password".into()));
        }
        let client = Client::builder()
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .user_agent(concat!("dandori/", env!("CARGO_PKG_VERSION")))
            // A token goes to the server that it was given for, and to no other.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Failure::Told {
                exit: Exit::Unreachable,
                code: "client".to_owned(),
                message: error.to_string(),
                help: String::new(),
                found: vec![],
            })?;
        let token = token.map(str::trim).filter(|token| !token.is_empty());
        Ok(Self { base, token: token.map(str::to_owned), client })
    }

    /// The address of what these names lead to, each a part of the path.
    fn url<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["api", "v1"]).extend(names);
        }
        url
    }

    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.client.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let answer = request.send().await.map_err(|error| self.away(&error))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(refused(answer).await)
    }

    fn away(&self, error: &reqwest::Error) -> Failure {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let (host, port) = (
            self.base.host_str().unwrap_or_default(),
            self.base.port_or_known_default(),
        );
        let port = port.unwrap_or_default();
        Failure::Told {
            exit: Exit::Unreachable,
            code: "server_away".to_owned(),
            message: format!("{host}:{port} does not answer: {cause}"),
            help: "check that `dandori serve` runs there, and the address of --server"
                .to_owned(),
            found: vec![],
        }
    }

    async fn read<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
    ) -> Result<T, Failure> {
        let bytes = self.answer(request).await?.bytes().await;
        let bytes = bytes.map_err(|error| self.away(&error))?;
        serde_json::from_slice(&bytes).map_err(bad_answer)
    }

    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        names: &[&str],
        query: &[(&str, &str)],
    ) -> Result<T, Failure> {
        let request = self.request(Method::GET, self.url(names.iter().copied()));
        self.read(request.query(query)).await
    }

    /// The entries of a list, page by page until there are enough: under which key they stand,
    /// and the parameter that the place of the next page goes into.
    pub(super) async fn pages<T: DeserializeOwned>(
        &self,
        list: &str,
        (key, cursor): (&str, &str),
        query: &[(&str, &str)],
        limit: u32,
    ) -> Result<Vec<T>, Failure> {
        let limit = limit as usize;
        let mut entries: Vec<T> = vec![];
        let mut next: Option<String> = None;
        loop {
            let wanted = (limit - entries.len()).min(PAGE).to_string();
            let mut asked = [query, &[("limit", wanted.as_str())]].concat();
            if let Some(next) = &next {
                asked.retain(|(name, _)| *name != cursor);
                asked.push((cursor, next));
            }
            let mut page: Value = self.get(&[list], &asked).await?;
            let found = page.get_mut(key).map(Value::take).unwrap_or_default();
            let found: Vec<T> = serde_json::from_value(found).map_err(bad_answer)?;
            next = match page.get("next") {
                Some(Value::String(next)) => Some(next.clone()),
                Some(Value::Number(next)) => Some(next.to_string()),
                _ => None,
            };
            // A page without entries is the last one, whatever it says.
            let over = next.is_none() || found.is_empty();
            entries.extend(found);
            if over || entries.len() >= limit {
                entries.truncate(limit);
                return Ok(entries);
            }
        }
    }

    pub(super) async fn post(&self, names: &[&str]) -> Result<Steered, Failure> {
        self.read(self.request(Method::POST, self.url(names.iter().copied()))).await
    }

    pub(super) async fn send<T: DeserializeOwned>(
        &self,
        names: &[&str],
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let request = self.request(Method::POST, self.url(names.iter().copied()));
        self.read(request.json(body)).await
    }

    pub(super) async fn delete(&self, names: &[&str]) -> Result<(), Failure> {
        let url = self.url(names.iter().copied());
        self.answer(self.request(Method::DELETE, url)).await.map(drop)
    }

    pub(super) async fn import(
        &self,
        archive: String,
        new_id: bool,
    ) -> Result<ProjectView, Failure> {
        let request = self.request(Method::POST, self.url(["projects", "import"]));
        let request = request.query(&[("new_id", new_id)]);
        let request = request.header("content-type", "application/x-ndjson");
        self.read(request.body(archive)).await
    }

    /// A project by its id, the end of one, its name, or `last`.
    pub(super) async fn find(&self, id: &str) -> Result<Remote, Failure> {
        let view: ProjectView = self.get(&["projects", id], &[]).await?;
        Ok(self.project(view.id.to_string()))
    }

    pub(super) fn project(&self, id: String) -> Remote {
        Remote { server: self.clone(), id, stream: Mutex::default() }
    }
}

/// A success that does not say what it should.
pub(super) fn bad_answer(error: impl std::fmt::Display) -> Failure {
    Failure::Told {
        exit: Exit::Unreachable,
        code: "bad_answer".to_owned(),
        message: format!("the answer of the server cannot be read: {error}"),
        help: "is it `dandori serve`, and of the same version?".to_owned(),
        found: vec![],
    }
}

/// What an answer that is no success says.
async fn refused(answer: Response) -> Failure {
    let status = answer.status();
    let problem: Problem = answer.json().await.unwrap_or_default();
    let exit = match status {
        StatusCode::NOT_FOUND => Exit::NotFound,
        StatusCode::PAYLOAD_TOO_LARGE => Exit::Invalid,
        StatusCode::UNPROCESSABLE_ENTITY if problem.code == "invalid_archive" => {
            Exit::Invalid
        }
        StatusCode::UNPROCESSABLE_ENTITY if problem.code == "refused" => {
            Exit::Unreachable
        }
        StatusCode::UNPROCESSABLE_ENTITY if problem.errors.is_empty() => Exit::Usage,
        StatusCode::UNPROCESSABLE_ENTITY => Exit::Invalid,
        StatusCode::CONFLICT | StatusCode::BAD_REQUEST => Exit::Usage,
        _ => Exit::Unreachable,
    };
    let code = match problem.code.is_empty() {
        true => "refused".to_owned(),
        false => problem.code,
    };
    let message = match problem.detail.is_empty() {
        true => format!("the server answers {status}"),
        false => problem.detail,
    };
    Failure::Told { exit, code, message, help: problem.help, found: problem.errors }
}

fn lost() -> Failure {
    Failure::Told {
        exit: Exit::Unreachable,
        code: "server_away".to_owned(),
        message: "the server broke the stream of events off".to_owned(),
        help: "check that `dandori serve` runs".to_owned(),
        found: vec![],
    }
}

/// A project behind a server.
pub(super) struct Remote {
    server: Server,
    pub(super) id: String,
    stream: Mutex<Option<Following>>,
}

/// A stream of events, and the number of the last one that it gave.
struct Following {
    seen: i64,
    events: Pin<Box<dyn Stream<Item = Result<Sse, sse_stream::Error>> + Send>>,
}

impl Remote {
    fn path<'a>(&'a self, rest: &[&'a str]) -> Vec<&'a str> {
        [&["projects", self.id.as_str()], rest].concat()
    }

    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        rest: &[&str],
        query: &[(&str, &str)],
    ) -> Result<T, Failure> {
        self.server.get(&self.path(rest), query).await
    }

    /// An answer that is read piece by piece.
    pub(super) async fn bytes(&self, rest: &[&str]) -> Result<Response, Failure> {
        let url = self.server.url(self.path(rest));
        self.server.answer(self.server.request(Method::GET, url)).await
    }

    pub(super) async fn post(&self, rest: &[&str]) -> Result<Steered, Failure> {
        self.server.post(&self.path(rest)).await
    }

    pub(super) async fn send<T: DeserializeOwned>(
        &self,
        rest: &[&str],
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.server.send(&self.path(rest), body).await
    }

    pub(super) async fn view(&self) -> Result<ProjectView, Failure> {
        self.get(&[], &[("include", "steps")]).await
    }

    pub(super) async fn why(&self, step: &str) -> Result<Why, Failure> {
        self.get(&["steps", step, "why"], &[]).await
    }

    /// Another project of the same server.
    pub(super) fn other(&self, id: String) -> Self {
        self.server.project(id)
    }

    /// The next event after a number; none when the project has ended. A server that is
    /// away is waited for.
    pub(super) async fn next_event(
        &self,
        after: i64,
    ) -> Result<Vec<EventView>, Failure> {
        let mut stream = self.stream.lock().await;
        let mut away: Option<Instant> = None;
        loop {
            let following = match stream.take().filter(|it| it.seen == after) {
                Some(following) => Ok(following),
                None => self.events(after).await,
            };
            let began = Instant::now();
            let failure = match following {
                Ok(mut following) => match following.next(after).await {
                    Some(events) => {
                        *stream = Some(following);
                        return Ok(events);
                    }
                    None => {
                        away = away.filter(|_| began.elapsed() < LASTED);
                        lost()
                    }
                },
                Err(failure) => failure,
            };
            let passes = matches!(&failure, Failure::Told { code, .. }
                if code == "server_away" || code == "database");
            if !passes || away.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                return Err(failure);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn events(&self, after: i64) -> Result<Following, Failure> {
        let url = self.server.url(self.path(&["events"]));
        let request = self
            .server
            .request(Method::GET, url)
            .query(&[("after", after)])
            .header(header::ACCEPT, "text/event-stream");
        let answer = self.server.answer(request).await?;
        let events = SseStream::from_bytes_stream(answer.bytes_stream());
        Ok(Following { seen: after, events: Box::pin(events) })
    }
}

impl Following {
    /// The next event; nothing where the project has ended, `None` where the stream breaks
    /// off.
    async fn next(&mut self, after: i64) -> Option<Vec<EventView>> {
        loop {
            let Some(Ok(event)) = self.events.next().await else { return None };
            match event.event.as_deref() {
                Some("done") => return Some(vec![]),
                // A newer server may tell what is not known here.
                Some(_) => {
                    let data = event.data.unwrap_or_default();
                    match serde_json::from_str::<EventView>(&data) {
                        Ok(event) if event.seq > after => {
                            self.seen = event.seq;
                            return Some(vec![event]);
                        }
                        _ => {}
                    }
                }
                None => {}
            }
        }
    }
}
