-- grain: one row, the digest of the definitions that filled this index
create table if not exists index_version (
    digest varchar not null
);
