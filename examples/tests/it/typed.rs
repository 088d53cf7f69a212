//! The cases that types permit, through the typed canvas.

use std::num::NonZeroUsize;

use dandori::{
    Canvas, Context, Engine, EngineBuilder, Next, Project, StepError,
    canvas::{
        Failure, Flow, Member, Siblings, Step, chord, chunks, group, group_tolerating,
        map,
    },
    handler_fn,
    plan::Amount,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::cluster::Cluster;

#[derive(Deserialize, Serialize)]
struct Page {
    url: String,
    words: i64,
}

/// The steps of these tests.
struct Kinds {
    add: Step<(i64, i64), i64>,
    id: Step<i64, i64>,
    sum: Step<Vec<i64>, i64>,
    fail: Step<i64, i64>,
    fetch: Step<String, Page>,
    count: Step<Page, i64>,
    pair: Step<(i64, Page), String>,
    told: Step<Failure, String>,
    slots: Step<Vec<Member<i64>>, Vec<bool>>,
    plus_all: Step<Vec<i64>, Vec<i64>>,
    becomes: Step<i64, i64>,
    adds: Step<i64, i64>,
}

fn kinds(builder: EngineBuilder) -> (EngineBuilder, Kinds) {
    let add = handler_fn("t.add", async |_: Context, (x, y): (i64, i64)| Ok(x + y));
    let id = handler_fn("t.id", async |_: Context, x: i64| Ok(x));
    let sum = handler_fn("t.sum", async |_: Context, it: Vec<i64>| {
        Ok(it.iter().sum::<i64>())
    });
    let fail = handler_fn("t.fail", async |_: Context, x: i64| {
        Err::<i64, _>(StepError::fail("broken", x))
    });
    let fetch = handler_fn("t.fetch", async |_: Context, url: String| {
        Ok(Page { words: i64::try_from(url.len()).unwrap(), url })
    });
    let count = handler_fn("t.count", async |_: Context, page: Page| Ok(page.words));
    let pair = handler_fn("t.pair", async |_: Context, (n, page): (i64, Page)| {
        Ok(format!("{n} {}", page.url))
    });
    let told = handler_fn("t.told", async |ctx: Context, failure: Failure| {
        ctx.log(format!("{} {}", failure.first.step, failure.failed.len()));
        Ok(failure.first.message)
    });
    let slots = handler_fn("t.slots", async |_: Context, it: Vec<Member<i64>>| {
        Ok(it.iter().map(|it| matches!(it, Member::Value(_))).collect::<Vec<_>>())
    });
    let x10 = handler_fn("t.x10", async |_: Context, x: i64| Ok(x * 10));
    let plus_all = handler_fn("t.plus_all", async |_: Context, it: Vec<i64>| {
        let add = Step::<(i64, i64), i64>::named("t.add");
        let members = it.into_iter().map(|x| add.bind(&(x, 10)));
        Ok(Next::expand(group(members.collect::<Result<Vec<_>, _>>()?)))
    });
    let ten = x10.step();
    let becomes = handler_fn("t.becomes", move |_: Context, it: i64| {
        let ten = ten.clone();
        let plus = Step::<(i64, i64), i64>::named("t.add");
        async move { Next::pass(&it, plus.partial(&(1,))?.then(ten.take())) }
    });
    let adds = handler_fn("t.adds", async |ctx: Context, it: i64| {
        ctx.add_to_chord(Step::<i64, i64>::named("t.id").bind(&100)?);
        Ok(it)
    });
    let typed = Kinds {
        add: add.step(),
        id: id.step(),
        sum: sum.step(),
        fail: fail.step(),
        fetch: fetch.step(),
        count: count.step(),
        pair: pair.step(),
        told: told.step(),
        slots: slots.step(),
        plus_all: plus_all.step(),
        becomes: becomes.step(),
        adds: adds.step(),
    };
    let builder = builder.handler(add).handler(id).handler(sum).handler(fail);
    let builder = builder.handler(fetch).handler(count).handler(pair);
    let builder = builder.handler(plus_all).handler(becomes).handler(adds).handler(x10);
    (builder.handler(told).handler(slots), typed)
}

async fn value<T: DeserializeOwned>(engine: &Engine, flow: Flow<(), T>) -> Option<T> {
    // What is built is what is read.
    let canvas = flow.clone().into_canvas();
    let text = serde_json::to_string(&canvas).unwrap();
    assert_eq!(Canvas::from_json(&text).unwrap(), canvas);
    let handle = engine.submit(Project::new("typed", flow)).await.unwrap();
    let view = handle.wait().await.unwrap();
    view.output.map(|output| serde_json::from_str(output.get()).unwrap())
}

async fn all(builder: EngineBuilder) {
    let (builder, k) = kinds(builder);
    let engine = builder.start().await.unwrap();
    let add = |x, y| k.add.bind(&(x, y)).unwrap();
    let plus = |y| k.add.partial(&(y,)).unwrap();
    let id = |x| k.id.bind(&x).unwrap();

    // 1, 5, 11
    let chain = add(4, 4).then(plus(8)).then(plus(16));
    assert_eq!(value(&engine, chain).await, Some(32));
    let inner = plus(4).then(plus(8));
    assert_eq!(value(&engine, add(2, 2).then(inner)).await, Some(16));
    let ignoring = add(2, 2).then(add(8, 8).ignoring_input());
    assert_eq!(value(&engine, ignoring).await, Some(16));
    // 25, 29, 36: what a group is made of stays what it is.
    assert_eq!(value(&engine, group([add(2, 2), add(4, 4)])).await, Some(vec![4, 8]));
    let nested = group([group([id(1), id(2)]), group([id(3)])]);
    assert_eq!(value(&engine, nested).await, Some(vec![vec![1, 2], vec![3]]));
    let mixed = group((id(1), k.fetch.bind(&"tide".to_owned()).unwrap()));
    assert_eq!(value(&engine, mixed.then(k.pair.take())).await.unwrap(), "1 tide");
    // 40, 47, 58
    let fan = id(42).then(group([k.id.take(), plus(1)]));
    assert_eq!(value(&engine, fan).await, Some(vec![42, 43]));
    let barrier = add(1, 0)
        .then(group([plus(1), plus(1)]))
        .then(group([k.sum.take(), k.sum.take()]))
        .then(k.sum.take());
    assert_eq!(value(&engine, barrier).await, Some(8));
    let one = add(2, 2).then(group([plus(1)])).then(k.sum.take());
    assert_eq!(value(&engine, one).await, Some(5));
    // 61, 66, 81
    assert_eq!(
        value(&engine, chord([add(2, 2), add(4, 4)], k.sum.take())).await,
        Some(12)
    );
    let wide: Vec<_> = (0..1000).map(id).collect();
    assert_eq!(value(&engine, chord(wide, k.sum.take())).await, Some(499_500));
    // 132
    let triple = map(&k.add, [(1, 2), (3, 4)]).unwrap();
    assert_eq!(value(&engine, triple).await, Some(vec![3, 7]));
    let parts = chunks(&k.add, (0..7).map(|n| (n, n)), NonZeroUsize::new(3).unwrap());
    let expected = vec![vec![0, 2, 4], vec![6, 8, 10], vec![12]];
    assert_eq!(value(&engine, parts.unwrap()).await, Some(expected));
    // A struct is passed on as it is.
    let page = k.fetch.bind(&"https://a.example".to_owned()).unwrap();
    assert_eq!(value(&engine, page.then(k.count.take())).await, Some(17));
    let own = k.count.bind(&Page { url: String::new(), words: 3 }).unwrap();
    assert_eq!(value(&engine, own).await, Some(3));
    // 33: failures that are tolerated have a type.
    let members = [id(1), k.fail.bind(&2).unwrap(), id(3)];
    let flow = group_tolerating(members, Amount::Count(1)).then(k.slots.take());
    assert_eq!(value(&engine, flow).await, Some(vec![true, false, true]));
    // 112: options.
    let patient = k.id.clone().option("retry", &json!({ "max_retries": 2 }));
    assert_eq!(value(&engine, patient.bind(&7).unwrap()).await, Some(7));
    // 45, 100, 102: a step becomes a flow, whose value is of its type.
    let all_of = add(2, 2).then(group([k.id.take(), plus(1)])).then(k.plus_all.take());
    assert_eq!(value(&engine, all_of).await, Some(vec![14, 15]));
    let chain = id(1).then(k.becomes.take()).then(plus(5));
    assert_eq!(value(&engine, chain).await, Some(25));
    let members = [id(42), id(1).then(k.becomes.take()), id(7)];
    assert_eq!(value(&engine, group(members)).await, Some(vec![42, 20, 7]));
    // 86: a member adds another.
    let header = [id(0).then(k.adds.take()), id(2)];
    assert_eq!(value(&engine, chord(header, k.sum.take())).await, Some(102));
    // Siblings are cancelled.
    let slow = k.id.clone().option("delay", &json!("1h")).bind(&1).unwrap();
    let flow = group([slow, k.fail.bind(&2).unwrap()]).siblings(Siblings::Cancel);
    let handle = engine.submit(Project::new("siblings", flow)).await.unwrap();
    let view = handle.wait().await.unwrap();
    let states: Vec<_> = view.steps.iter().map(|it| it.state.as_str()).collect();
    assert_eq!(states, ["cancelled", "failed", "upstream_failed"]);
    // 14, 17: an error handler gets the record.
    let broken = id(1).then(k.fail.take()).then(plus(1)).on_failure(k.told.take());
    let handle =
        engine.submit(Project::new("broken", broken.label("a", "b"))).await.unwrap();
    let view = handle.wait().await.unwrap();
    assert_eq!(view.state.as_str(), "failed");
    let logs = handle.logs(None).await.unwrap();
    assert_eq!(logs.iter().map(|it| &*it.line).collect::<Vec<_>>(), ["2.t.fail 1"]);
    engine.shutdown().await;
}

#[test]
fn a_canvas_built_in_code_is_looked_at_like_one_that_is_read() {
    use dandori::canvas::Shape;

    let code = |canvas: Canvas| {
        let ended = Project::from_canvas("built", canvas).compile(None);
        match ended.map(|_| "accepted".to_owned()) {
            Ok(accepted) => accepted,
            Err(dandori::Error::Invalid(found)) => found[0].code.to_string(),
            Err(error) => error.to_string(),
        }
    };
    let call = || Canvas::call("k", [json!(1)]);
    let nested = |depth| (1..depth).fold(call(), |inner, _| Canvas::chain([inner]));
    assert_eq!(code(nested(60)), "accepted");
    assert_eq!(code(nested(70)), "too_deep");
    assert_eq!(code(Canvas::call("a/b", [])), "bad_name");
    assert_eq!(code(call().label("a", "x".repeat(300))), "too_many_labels");
    assert_eq!(code(call().option("retry", &json!(3))), "wrong_type");
    assert_eq!(code(call().option("needs", &json!(["a"]))), "unknown_key");
    let chunks = Shape::Chunks { kind: "k".to_owned(), items: vec![vec![]], size: 0 };
    assert_eq!(code(Canvas::new(chunks)), "accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn typed_cases_hold_on_sqlite() {
    all(Engine::builder().temporary()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn typed_cases_hold_on_postgres() {
    let place = Cluster::shared().fresh();
    all(Engine::builder().postgres(&place)).await;
}
