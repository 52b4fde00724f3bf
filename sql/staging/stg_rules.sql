-- grain: one row per detector and subject of the run $run_key that has counting rules
select
    detector,
    subject,
    count(distinct label) as labels,
    min(threshold) as threshold
from rules
where run_key = $run_key
group by detector, subject
