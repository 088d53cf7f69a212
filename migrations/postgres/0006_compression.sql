-- Values are compressed by lz4 where the server knows it: its default takes a millisecond for
-- an output of 50 KB, more than the commit that holds it. What is stored stays as it is.
do $$
begin
    alter table plans alter column body set compression lz4;
    alter table project_data alter column inputs set compression lz4;
    alter table project_data alter column output set compression lz4;
    alter table steps alter column output set compression lz4;
    alter table blobs alter column body set compression lz4;
    alter table attempts alter column output set compression lz4;
    alter table events alter column body set compression lz4;
    alter table expansions alter column body set compression lz4;
exception when feature_not_supported then
    raise notice 'this server was built without lz4: values are compressed as before';
end
$$;
