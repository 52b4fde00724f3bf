-- grain: one row per distinct hits, assessed and confidence; two-sided Clopper-Pearson, which DuckDB cannot compute
create table if not exists intervals (
    hits bigint not null,
    assessed bigint not null,
    confidence double not null,
    low double not null,
    high double not null
);
