//! Mistakes that the tests must notice: variants of the statements, each with one promise
//! left out. Only with the feature `broken`; never in a program.

use super::{POSTGRES, Statements, statements::Commit};

/// A variant: what it leaves out, and the statements.
pub(super) struct Broken {
    pub(super) name: &'static str,
    statements: fn(Statements) -> Statements,
}

/// A text with a part of it replaced, for as long as the process lives.
fn swap(text: &'static str, part: &str, by: &str) -> &'static str {
    assert!(text.contains(part), "the statement has changed: {part}");
    Box::leak(text.replace(part, by).into_boxed_str())
}

macro_rules! broken {
    ($($name:literal: $field:ident, $part:literal => $by:literal;)*) => {
        &[$(Broken {
            name: $name,
            statements: |good| Statements {
                $field: swap(good.$field, $part, $by),
                ..good
            },
        },)*]
    };
}

const TEXTS: &[Broken] = broken! {
    "a release does not look at the mail":
        release, "and mail = $4" => "and $4 >= 0";
    "a message is not counted":
        raise_mail, "mail + $2" => "mail + 0 * $2";
    "a message wakes nobody":
        raise_mail, "case when session is null then -1 else wake_at end" => "wake_at";
    "an adoption takes what has an owner":
        take_project, "(p.session is null or p.session = $2)" => "true";
    "the dead adopt":
        take_project, "select id from sessions where id = $2 and state = 'live' for key share"
            => "select $2::uuid as id";
    "a session that has beaten is declared dead":
        expire_session, "beat = $2" => "$2 >= 0";
    "a lease that is not over is declared so":
        expire_session, "$3 or until <" => "$3 or 0 <";
    "a graceful end is charged":
        expire_session, "case state when 'draining' then 'drained' else 'dead' end"
            => "'dead'";
    "what the dead owned wakes nobody":
        free_projects, "else 0 end" => "else null::bigint end";
    "what the dead ran is not lost":
        lose_claims, "session = $1" => "session = $1 and $2::boolean is null";
    "an outcome needs no grant":
        deliver, "claim = $3" => "$3::uuid is not null";
    "an outcome counts twice":
        deliver, "and state = 'claimed'" => "";
    "an offer is taken back from who runs it":
        withdraw, "and state = 'open'" => "";
    "the dead claim":
        claim, "select id from sessions where id = $1 and state = 'live' for key share"
            => "select $1::uuid as id";
    "a claim takes what is claimed":
        claim, "state = 'open'" => "state in ('open', 'claimed')";
    "an outcome is read and left":
        consume_claims, "and state in" => "and no < 0 and state in";
    "a message is read and left":
        consume_mail, "and id in" => "and id < 0 and id in";
    "an adoption does not raise the epoch":
        take_project, "epoch + 1" => "epoch + 0";
    "two adopt at once":
        take_project, "for no key update of p skip locked" => "";
    "who adopts is declared dead meanwhile":
        take_project, "state = 'live' for key share" => "state = 'live'";
    "a session is declared dead while it adopts":
        expire_session, "for update" => "";
    "a session ends while it adopts":
        lock_session, "for update" => "";
    "who drained dies again and is charged":
        expire_session, "and state in ('live', 'draining')" => "";
    "a charge is forgotten by the next death":
        free_projects, "case when adoptions > 0 then charged else $2 end" => "$2";
    "a reaper frees what the living own":
        free_projects, "session = $1" => "session is not null and $1::uuid is not null";
    "a reaper takes what the living run":
        lose_claims, "session = $1" => "$1::uuid is not null";
    "what was delivered is lost all the same":
        lose_claims, "and state = 'claimed'" => "";
    "a reaper locks claims before projects":
        lock_owned, "for no key update" => "";
    "a delivery locks claims before projects":
        lock_projects, "for no key update" => "";
    "a replay keeps old messages":
        drop_mail, "project = $1" => "project = $1 and id < 0";
    "what rests does not know that its queue goes on":
        lock_queues, "for key share" => "";
    "a queue that goes on wakes nobody":
        wake_held, "wake_at = 9223372036854775807" => "wake_at = -7";
    "a replay keeps old outcomes":
        drop_claims, "project = $1" => "project = $1 and no < 0";
};

/// Those of statements that are not texts alone.
const OTHERS: &[Broken] = &[
    Broken {
        name: "who submits for itself is declared dead meanwhile",
        statements: |good| {
            let put =
                |text| swap(text, "s.state = 'live' for key share", "s.state = 'live'");
            let (put_projects, put_project) =
                (put(good.put_projects), good.put_project.map(put));
            Statements { put_projects, put_project, ..good }
        },
    },
    Broken {
        name: "a beat revives the dead",
        statements: |good| Statements {
            pulse: good.pulse.map(|text| {
                swap(text, "where id = $1 and state in", "where id = $1 or state in")
            }),
            ..good
        },
    },
    Broken {
        name: "a lease counts from the begin of the transaction",
        statements: |good| Statements {
            pulse: good.pulse.map(|text| {
                let clock = "until = (extract(epoch from clock_timestamp())";
                swap(text, clock, "until = (extract(epoch from now())")
            }),
            ..good
        },
    },
    Broken {
        name: "an offer goes to two",
        statements: |good| {
            let claim = swap(good.claim, "for update of c skip locked", "");
            Statements { claim: swap(claim, "and claims.state = 'open'", ""), ..good }
        },
    },
    Broken {
        name: "a commit compares before it locks",
        statements: |good| commit(good, "for no key update of p", ""),
    },
    Broken {
        name: "a commit clears the counter of messages",
        statements: |good| commit(good, "p.mail - t.letters", "0 * t.letters"),
    },
    Broken {
        name: "the last commit forgets what is unread",
        statements: |good| {
            commit(
                good,
                "p.mail > t.letters then 0",
                "p.mail > t.letters then null::bigint",
            )
        },
    },
    Broken {
        name: "a commit of another session counts",
        statements: |good| commit(good, "p.session = $14", "$14::uuid is not null"),
    },
    Broken {
        name: "a commit of an older epoch counts",
        statements: |good| commit(good, "p.epoch = t.epoch", "t.epoch is not null"),
    },
    Broken {
        name: "a commit counts twice",
        statements: |good| {
            let either =
                commit(good, "p.last_event = t.before", "t.before is not null");
            commit(either, "p.writes = t.writes", "t.writes is not null")
        },
    },
    Broken {
        name: "facts of a lost project are written",
        statements: |good| {
            commit(good, "where (s.project in (select id from held)) is true", "")
        },
    },
    Broken {
        name: "later facts of a lost project are written",
        statements: |good| {
            commit(
                good,
                "where (k.project in (select id from held)) is true",
                "where true",
            )
        },
    },
    Broken {
        name: "a lone commit of another session counts",
        statements: |good| lone(good, "p.session = $14", "$14 = $14"),
    },
    Broken {
        name: "a lone commit of an older epoch counts",
        statements: |good| lone(good, "p.epoch = $2", "$2 = $2"),
    },
    Broken {
        name: "a lone commit counts twice",
        statements: |good| {
            let either = lone(good, "p.last_event = $3", "$3 = $3");
            lone(either, "p.writes = $13", "$13 = $13")
        },
    },
    Broken {
        name: "a lone fact of a lost project is written",
        statements: |good| {
            let anyway = "$31::text\n    from (select $1::uuid as id) h";
            lone(good, "$31::text\n    from guard h", anyway)
        },
    },
    Broken {
        name: "first facts of a lost project are written",
        statements: |good| {
            lone(good, "from guard h, unnest", "from (select $1::uuid as id) h, unnest")
        },
    },
];

/// Changes what the commits of many projects say.
fn commit(good: Statements, part: &str, by: &str) -> Statements {
    change(good, part, by, |texts| [&mut texts.many, &mut texts.full].into())
}

/// Changes what the commits of one project say.
fn lone(good: Statements, part: &str, by: &str) -> Statements {
    change(good, part, by, |texts| {
        [&mut texts.lone, &mut texts.last, &mut texts.one].into()
    })
}

/// Changes those of the texts that say it; one must.
fn change(
    good: Statements,
    part: &str,
    by: &str,
    which: fn(&mut Commit) -> Vec<&mut &'static str>,
) -> Statements {
    let mut texts = good.commit.unwrap_or(Commit::POSTGRES);
    let mut changed = 0;
    for text in which(&mut texts) {
        if text.contains(part) {
            *text = swap(text, part, by);
            changed += 1;
        }
    }
    assert!(changed > 0, "no text says {part:?}");
    Statements { commit: Some(texts), ..good }
}

/// All variants.
pub(super) fn all() -> impl Iterator<Item = &'static Broken> {
    TEXTS.iter().chain(OTHERS)
}

/// The statements of a variant, for as long as the process lives.
pub(super) fn statements(name: &str) -> Option<&'static Statements> {
    let broken = all().find(|broken| broken.name == name)?;
    Some(Box::leak(Box::new((broken.statements)(POSTGRES))))
}
