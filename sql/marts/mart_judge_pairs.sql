-- grain: one row per run, cell and pair of detectors that read the same pictures: what both say of them
-- What filters of the cell block counts as any other picture: its detectors read it, and agree or do not.
with
pairs as (
    select
        a.run_key,
        a.cell_id,
        a.detector as first_detector,
        b.detector as second_detector,
        a.unfiltered as first_outcome,
        b.unfiltered as second_outcome
    from outcomes as a
    inner join outcomes as b
        on
            a.run_key = b.run_key
            and a.cell_id = b.cell_id
            and a.case_no = b.case_no
            and a.detector < b.detector
)

select
    r.run_id,
    p.cell_id,
    p.first_detector,
    p.second_detector,
    count(*) filter (where p.first_outcome = 'hit' and p.second_outcome = 'hit') as hit_both,
    count(*) filter (where p.first_outcome = 'hit' and p.second_outcome = 'clear') as first_only,
    count(*) filter (where p.first_outcome = 'clear' and p.second_outcome = 'hit') as second_only,
    count(*) filter (where p.first_outcome = 'clear' and p.second_outcome = 'clear') as clear_both,
    count(*) filter (where p.first_outcome = 'hit' and p.second_outcome = 'unassessed') as hit_unassessed,
    count(*) filter (where p.first_outcome = 'clear' and p.second_outcome = 'unassessed') as clear_unassessed,
    count(*) filter (where p.first_outcome = 'unassessed' and p.second_outcome = 'hit') as unassessed_hit,
    count(*) filter (where p.first_outcome = 'unassessed' and p.second_outcome = 'clear') as unassessed_clear,
    count(*) filter (where p.first_outcome = 'unassessed' and p.second_outcome = 'unassessed') as unassessed_both
from pairs as p
inner join runs as r on p.run_key = r.run_key
group by r.run_id, p.cell_id, p.first_detector, p.second_detector
