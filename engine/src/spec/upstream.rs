//! Whether one task is upstream of another, for many pairs at once.

use std::collections::HashMap;

/// How many tasks are looked at for one pair before all pairs are looked at together.
/// Most uses of a task that is no direct need go back two or three steps.
const NEAR: usize = 64;

/// For each (user, named): whether `named` can be reached from `user` along needs.
pub(super) fn are_upstream(
    needs: &[Vec<usize>],
    queries: &[(usize, usize)],
) -> Vec<bool> {
    let mut answers: Vec<Option<bool>> =
        queries.iter().map(|(user, named)| is_near(needs, *user, *named)).collect();
    let mut open: Vec<usize> =
        (0..queries.len()).filter(|query| answers[*query].is_none()).collect();
    // Pairs that name the same task go into the same round.
    open.sort_unstable_by_key(|query| queries[*query].1);
    let order = if open.is_empty() { vec![] } else { topological(needs) };
    let mut rest = open.as_slice();
    while !rest.is_empty() {
        // 64 named tasks at a time travel as one mask through the graph.
        let mut bits: HashMap<usize, u64> = HashMap::new();
        let mut count = 0;
        for query in rest {
            let next = 1_u64.checked_shl(u32::try_from(bits.len()).unwrap_or(64));
            let named = queries[*query].1;
            match (bits.contains_key(&named), next) {
                (true, _) => {}
                (false, Some(bit)) => drop(bits.insert(named, bit)),
                (false, None) => break,
            }
            count += 1;
        }
        let mut masks = vec![0_u64; needs.len()];
        for task in &order {
            let mut mask = 0;
            for need in &needs[*task] {
                mask |= masks[*need] | bits.get(need).copied().unwrap_or(0);
            }
            masks[*task] = mask;
        }
        for query in &rest[..count] {
            let (user, named) = queries[*query];
            answers[*query] = Some(masks[user] & bits[&named] != 0);
        }
        rest = &rest[count..];
    }
    answers.into_iter().map(|answer| answer.unwrap_or(false)).collect()
}

/// Looks at the tasks just above `user`; `None` when they are too many to decide.
fn is_near(needs: &[Vec<usize>], user: usize, named: usize) -> Option<bool> {
    let mut seen = vec![user];
    let mut at = 0;
    while let Some(task) = seen.get(at).copied() {
        at += 1;
        if needs[task].len() > NEAR {
            return None;
        }
        for need in &needs[task] {
            if *need == named {
                return Some(true);
            }
            if !seen.contains(need) {
                seen.push(*need);
            }
        }
        if seen.len() > NEAR {
            return None;
        }
    }
    Some(false)
}

/// Tasks after their needs; those of a ring are left out.
fn topological(needs: &[Vec<usize>]) -> Vec<usize> {
    let mut open: Vec<usize> = needs.iter().map(Vec::len).collect();
    let mut dependents = vec![vec![]; needs.len()];
    for (task, needs) in needs.iter().enumerate() {
        for need in needs {
            dependents[*need].push(task);
        }
    }
    let mut order: Vec<usize> =
        (0..needs.len()).filter(|task| open[*task] == 0).collect();
    let mut at = 0;
    while let Some(task) = order.get(at).copied() {
        at += 1;
        for dependent in &dependents[task] {
            open[*dependent] -= 1;
            if open[*dependent] == 0 {
                order.push(*dependent);
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_and_far_tasks_are_found_and_others_are_not() {
        // Two chains side by side, long enough that a walk gives up.
        let length = 500;
        let chain = |task: usize| if task < 2 { vec![] } else { vec![task - 2] };
        let needs: Vec<Vec<usize>> = (0..length).map(chain).collect();
        let queries: Vec<(usize, usize)> =
            (0..length).map(|named| (length - 1, named)).collect();
        for ((user, named), found) in queries.iter().zip(are_upstream(&needs, &queries))
        {
            let same_chain = user % 2 == named % 2;
            assert_eq!(found, same_chain && user != named, "{user} {named}");
        }
    }
}
