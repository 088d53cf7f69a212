//! The scripts: what happens before, and what two processes do then.

use super::world::{
    Act::{Consume, Finish, Offer, Plain, Settle, Stop, Withdraw},
    Op::{self, *},
    Who::{self, A, B, C},
};

/// What somebody holds while both processes run into it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hold {
    Project(usize),
    /// The claims of a project.
    Claims(usize),
    Session(Who),
    Table(&'static str),
    /// The data of a project that is being submitted.
    Data(usize),
}

use Hold::{Claims, Data, Project, Session, Table};

pub(super) struct Script {
    pub(super) name: &'static str,
    /// Whose lease is over.
    pub(super) dying: &'static [Who],
    pub(super) before: &'static [Op],
    pub(super) lists: [&'static [Op]; 2],
    pub(super) holds: &'static [Hold],
}

impl Script {
    /// Who takes part.
    pub(super) fn who(&self) -> Vec<Who> {
        let named = |who: Who| {
            let letter = format!("{who:?}");
            let all = self.before.iter().chain(self.lists.into_iter().flatten());
            let said = all.map(|op| format!("{op:?}"));
            said.into_iter().any(|op| {
                op.contains(&format!("({letter})"))
                    || op.contains(&format!("({letter},"))
            })
        };
        [A, B, C].into_iter().filter(|who| named(*who)).collect()
    }

    /// Whether one session at most takes part, and never claims: where one process alone
    /// executes, there is no other.
    pub(super) fn is_lonely(&self) -> bool {
        self.who().len() <= 1 && self.dying.is_empty()
    }
}

const fn script(
    name: &'static str,
    dying: &'static [Who],
    before: &'static [Op],
    lists: [&'static [Op]; 2],
    holds: &'static [Hold],
) -> Script {
    Script { name, dying, before, lists, holds }
}

const OWNED: &[Op] = &[Adopt(A, 0)];
const OFFERED: &[Op] = &[Adopt(A, 0), Commit(A, 0, Offer(&[0]))];
const CLAIMED: &[Op] = &[Adopt(A, 0), Commit(A, 0, Offer(&[0])), Claim(B, 1)];
const TWO_CLAIMED: &[Op] =
    &[Adopt(A, 0), Commit(A, 0, Offer(&[0, 1])), Claim(B, 1), Claim(C, 1)];
/// B runs a step of each project; A owns the first, and C the second.
const CROSSED: &[Op] = &[
    Adopt(A, 0),
    Adopt(C, 1),
    Commit(A, 0, Offer(&[0])),
    Commit(C, 1, Offer(&[0])),
    Claim(B, 2),
];
/// A and B own a project each, and each runs a step of the other's.
const EXCHANGED: &[Op] = &[
    Adopt(A, 0),
    Adopt(B, 1),
    Commit(A, 0, Offer(&[0])),
    Commit(B, 1, Offer(&[0])),
    Claim(A, 1),
    Claim(B, 1),
];

pub(super) const SCRIPTS: &[Script] = &[
    // Ownership.
    script(
        "adopt, adopt",
        &[],
        &[],
        [&[Adopt(B, 0), Commit(B, 0, Plain)], &[Adopt(C, 0), Commit(C, 0, Plain)]],
        &[Project(0), Session(B)],
    ),
    script(
        "adopt, another owner comes and goes",
        &[],
        &[],
        [&[Adopt(B, 0)], &[Adopt(C, 0), Commit(C, 0, Plain), Release(C, 0)]],
        &[Session(B), Project(0)],
    ),
    script(
        "adopt, the adopter dies",
        &[B],
        &[],
        [&[Adopt(B, 0), Commit(B, 0, Plain)], &[Expire(B), Reap]],
        &[Session(B), Project(0), Table("mailbox")],
    ),
    script(
        "adopt, the adopter ends",
        &[],
        &[],
        [&[Adopt(B, 0), Commit(B, 0, Plain)], &[End(B)]],
        &[Session(B), Project(0), Table("mailbox")],
    ),
    script(
        "adopt, the adopter beats",
        &[],
        &[],
        [&[Adopt(B, 0)], &[Beat(B)]],
        &[Session(B), Table("mailbox")],
    ),
    script(
        "adopt, the old owner commits",
        &[A],
        OWNED,
        [
            &[Commit(A, 0, Plain), Commit(A, 0, Plain)],
            &[Expire(A), Reap, Adopt(B, 0), Commit(B, 0, Plain)],
        ],
        &[Project(0), Session(A), Table("steps")],
    ),
    script(
        "reap, the dead owner commits",
        &[A],
        &[Adopt(A, 0), Expire(A)],
        [&[Reap, Adopt(B, 0)], &[Commit(A, 0, Plain)]],
        &[Project(0), Session(A)],
    ),
    script(
        "reap, adopt",
        &[A],
        &[Adopt(A, 0), Expire(A)],
        [&[Reap], &[Adopt(B, 0), Commit(B, 0, Plain)]],
        &[Project(0), Session(B)],
    ),
    script(
        "expire, expire",
        &[A],
        OWNED,
        [&[Expire(A), Reap], &[Expire(A), Reap]],
        &[Session(A), Project(0)],
    ),
    script(
        "reap, another owner lives",
        &[A],
        &[Adopt(A, 0), Adopt(C, 1), Expire(A)],
        [&[Reap, Adopt(B, 0)], &[Commit(C, 1, Plain)]],
        &[Project(0), Project(1)],
    ),
    script(
        "end, reap",
        &[A],
        CLAIMED,
        [&[Commit(A, 0, Plain), End(A)], &[Expire(A), Reap]],
        &[Project(0), Session(A)],
    ),
    script(
        "beat, expire",
        &[A],
        OWNED,
        [&[Beat(A), Commit(A, 0, Plain)], &[Expire(A), Reap]],
        &[Session(A), Project(0)],
    ),
    script(
        "beat, reap",
        &[A],
        &[Adopt(A, 0), Expire(A)],
        [&[Beat(A), Adopt(A, 1)], &[Reap]],
        &[Session(A)],
    ),
    script(
        "the same commit twice",
        &[],
        OWNED,
        [&[Commit(A, 0, Plain)], &[Commit(A, 0, Plain)]],
        &[Project(0)],
    ),
    script(
        "the same last commit twice",
        &[],
        OWNED,
        [&[Commit(A, 0, Finish)], &[Commit(A, 0, Finish)]],
        &[Project(0)],
    ),
    // Messages.
    script(
        "release, send",
        &[],
        OWNED,
        [&[Release(A, 0), Adopt(A, 0)], &[Send(0), Send(0)]],
        &[Project(0)],
    ),
    script(
        "send, the last commit",
        &[],
        OWNED,
        [&[Commit(A, 0, Finish)], &[Send(0)]],
        &[Project(0)],
    ),
    script(
        "send, send and read",
        &[],
        OWNED,
        [&[Send(0), Send(0)], &[Send(0), Read(A, 0), Commit(A, 0, Consume)]],
        &[Project(0), Table("mailbox")],
    ),
    script(
        "rest, the queue goes on",
        &[],
        &[Adopt(A, 0), PauseQueue],
        [&[Rest(A, 0)], &[ResumeQueue]],
        &[Project(0), Table("paused_queues")],
    ),
    script(
        "rest, send and the queue goes on",
        &[],
        &[Adopt(A, 0), PauseQueue],
        [&[Rest(A, 0), Adopt(A, 0)], &[Send(0), ResumeQueue]],
        &[Project(0)],
    ),
    script("park, send", &[], OWNED, [&[Park(A, 0)], &[Send(0)]], &[Project(0)]),
    script(
        "replay, send",
        &[],
        &[Adopt(A, 0), Commit(A, 0, Finish)],
        [&[Replay(0), Adopt(A, 0)], &[Send(0)]],
        &[Project(0)],
    ),
    script(
        "replay, replay",
        &[],
        &[Adopt(A, 0), Commit(A, 0, Finish)],
        [&[Replay(0)], &[Replay(0)]],
        &[Project(0)],
    ),
    script(
        "replay, a late answer",
        &[],
        &[Adopt(A, 0), Commit(A, 0, Finish), Send(0)],
        [&[Replay(0)], &[Adopt(A, 0), Commit(A, 0, Settle)]],
        &[Project(0), Table("mailbox")],
    ),
    script(
        "submit, submit",
        &[],
        &[],
        [&[Submit(1)], &[Submit(1), Submit(2)]],
        &[Data(2)],
    ),
    script(
        "submit, its owner dies",
        &[B],
        &[],
        [&[SubmitOwned(B)], &[Expire(B), Reap]],
        &[Session(B), Data(2)],
    ),
    script(
        "submit, its owner ends",
        &[],
        &[],
        [&[SubmitOwned(B)], &[End(B)]],
        &[Session(B), Data(2)],
    ),
    // Claims.
    script(
        "claim, claim",
        &[],
        OFFERED,
        [&[Claim(B, 1), Deliver(B)], &[Claim(C, 1), Deliver(C)]],
        &[Claims(0), Session(B)],
    ),
    script(
        "claim, withdraw",
        &[],
        OFFERED,
        [&[Claim(B, 1), Deliver(B)], &[Commit(A, 0, Withdraw(0))]],
        &[Claims(0), Project(0), Session(B)],
    ),
    script(
        "claim, its worker dies",
        &[B],
        OFFERED,
        [&[Claim(B, 1), Deliver(B)], &[Expire(B), Reap]],
        &[Session(B), Claims(0), Project(0)],
    ),
    script(
        "claim, drain and end",
        &[],
        OFFERED,
        [&[Claim(B, 1)], &[Drain(B), End(B)]],
        &[Session(B), Claims(0)],
    ),
    script(
        "claim, replay",
        &[],
        &[Adopt(A, 0), Commit(A, 0, Offer(&[0])), Commit(A, 0, Finish)],
        [&[Claim(B, 1), Deliver(B)], &[Replay(0)]],
        &[Claims(0), Project(0)],
    ),
    script(
        "deliver, its worker is reaped",
        &[B],
        CLAIMED,
        [&[Deliver(B)], &[Expire(B), Reap]],
        &[Claims(0), Project(0)],
    ),
    script(
        "deliver, stop",
        &[],
        CLAIMED,
        [&[Deliver(B)], &[Commit(A, 0, Stop(0))]],
        &[Claims(0), Project(0)],
    ),
    script(
        "deliver, consume another",
        &[],
        TWO_CLAIMED,
        [&[Deliver(C)], &[Deliver(B), Read(A, 0), Commit(A, 0, Consume)]],
        &[Project(0), Claims(0)],
    ),
    script(
        "both needs of a step end at once",
        &[],
        TWO_CLAIMED,
        [&[Deliver(B), Read(A, 0), Commit(A, 0, Consume)], &[Deliver(C), Beat(C)]],
        &[Project(0), Claims(0)],
    ),
    script(
        "deliver, the owner dies and another reads",
        &[A],
        CLAIMED,
        [&[Deliver(B)], &[Expire(A), Reap, Adopt(C, 0), Commit(C, 0, Consume)]],
        &[Project(0), Session(A)],
    ),
    script(
        "deliver, unclaim",
        &[],
        CLAIMED,
        [&[Deliver(B)], &[Unclaim(B)]],
        &[Claims(0), Project(0)],
    ),
    script(
        "deliver, end",
        &[],
        CLAIMED,
        [&[Deliver(B)], &[End(B)]],
        &[Claims(0), Project(0), Session(B)],
    ),
    script(
        "deliver, the last commit and replay",
        &[],
        CLAIMED,
        [&[Deliver(B)], &[Commit(A, 0, Finish), Replay(0)]],
        &[Project(0), Claims(0)],
    ),
    script(
        "deliver, one of two workers is reaped",
        &[B],
        TWO_CLAIMED,
        [&[Deliver(C)], &[Expire(B), Reap]],
        &[Claims(0), Project(0)],
    ),
    script(
        "drain, expire",
        &[B],
        CLAIMED,
        [&[Drain(B), Expire(B)], &[Expire(B), Reap]],
        &[Session(B), Project(0)],
    ),
    script(
        "who drained is declared dead twice",
        &[B],
        &[Adopt(A, 0), Commit(A, 0, Offer(&[0])), Claim(B, 1), Drain(B), Expire(B)],
        [&[Expire(B), Reap], &[Commit(A, 0, Plain)]],
        &[Session(B), Project(0)],
    ),
    // Two projects: everybody locks them in one order.
    script(
        "one commit on both projects, deliver on both",
        &[],
        &[
            Adopt(A, 0),
            Adopt(A, 1),
            Commit(A, 0, Offer(&[0])),
            Commit(A, 1, Offer(&[0])),
            Claim(B, 2),
        ],
        [&[Both(A)], &[Deliver(B)]],
        &[Project(0), Project(1), Claims(0), Claims(1)],
    ),
    script(
        "two owners stop, deliver on both",
        &[],
        CROSSED,
        [&[Commit(A, 0, Stop(0)), Commit(C, 1, Stop(0))], &[Deliver(B)]],
        &[Project(0), Project(1), Claims(0), Claims(1)],
    ),
    script(
        "the owners are reaped, deliver on both",
        &[A, C],
        // The session that is reaped first owns the project that is locked last.
        &[
            Adopt(A, 1),
            Adopt(C, 0),
            Commit(A, 1, Offer(&[0])),
            Commit(C, 0, Offer(&[0])),
            Claim(B, 2),
            Expire(A),
            Expire(C),
        ],
        [&[Reap], &[Deliver(B)]],
        &[Project(0), Project(1)],
    ),
    script(
        "two end that run a step of each other",
        &[],
        EXCHANGED,
        [&[End(A)], &[End(B)]],
        &[Project(0), Project(1), Claims(0), Claims(1)],
    ),
    script(
        "two end that run a step of each other, deliver",
        &[],
        EXCHANGED,
        [&[Deliver(A), End(A)], &[Deliver(B), End(B)]],
        &[Project(0), Project(1), Claims(0)],
    ),
];
