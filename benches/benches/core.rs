//! The pure core by time: plans, transitions, expressions.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dandori_benches as hot;

fn core(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core");
    for tasks in [20, 1_000, 10_000] {
        group.throughput(Throughput::Elements(tasks as u64));
        let document = hot::layers(tasks);
        group.bench_function(BenchmarkId::new("plan", tasks), |bench| {
            bench.iter(|| hot::plan(&document));
        });
        let plan = hot::plan(&document);
        group.bench_function(BenchmarkId::new("apply", tasks), |bench| {
            bench.iter(|| hot::apply(&plan));
        });
    }
    group.throughput(Throughput::Elements(1));
    let (input, names) = hot::input();
    group.bench_function("expression", |bench| {
        bench.iter(|| hot::expression(&input, &names));
    });
    group.finish();
}

criterion_group!(benches, core);
criterion_main!(benches);
