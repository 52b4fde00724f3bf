-- grain: one row per run, target cell, case, factor and level: what prompt, seed and reference image say of a case
-- What the corpus says of its images has factors that begin with 'image: '.
with
sought as (
    select
        r.run_id,
        c.run_key,
        l.concept,
        c.cell_id,
        c.case_no,
        c.prompt,
        c.seed,
        c.item_id,
        c.item_uri,
        c.subject
    from cases as c
    inner join cells as l on c.run_key = l.run_key and c.cell_id = l.cell_id
    inner join runs as r on c.run_key = r.run_key
    where l.role = 'target' and l.control is null
),

words as (
    select distinct
        run_key,
        cell_id,
        case_no,
        unnest(regexp_extract_all(lower(prompt), '[\p{L}][\p{L}-]*')) as word
    from sought
    where prompt is not null
),

levels as (
    select
        run_key,
        cell_id,
        case_no,
        'prompt' as factor,
        prompt as level_name
    from sought
    where prompt is not null
    union all
    select
        run_key,
        cell_id,
        case_no,
        'word' as factor,
        word as level_name
    from words
    union all
    select
        run_key,
        cell_id,
        case_no,
        'class' as factor,
        subject as level_name
    from sought
    where subject is not null
    union all
    select
        run_key,
        cell_id,
        case_no,
        'seed' as factor,
        seed::varchar as level_name
    from sought
    union all
    select
        run_key,
        cell_id,
        case_no,
        'image' as factor,
        item_uri as level_name
    from sought
    where item_uri is not null
    union all
    -- The folder of a reference image, and its name without the number that ends it.
    select
        run_key,
        cell_id,
        case_no,
        'image group' as factor,
        regexp_replace(item_uri, '[-_ ]*[0-9]*\.[A-Za-z0-9]+$', '') as level_name
    from sought
    where item_uri is not null
    union all
    select
        s.run_key,
        s.cell_id,
        s.case_no,
        'image: ' || a.attribute as factor,
        a.level_name
    from sought as s
    inner join item_attributes as a on s.run_key = a.run_key and s.item_id = a.item_id
)

select
    s.run_id,
    s.concept,
    s.cell_id,
    s.case_no,
    v.factor,
    v.level_name
from levels as v
inner join sought as s on v.run_key = s.run_key and v.cell_id = s.cell_id and v.case_no = s.case_no
