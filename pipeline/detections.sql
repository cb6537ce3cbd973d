-- For DuckDB: scored/ as it is mostly asked. Load with `.read pipeline/detections.sql`, then
--
--     FROM newest('results/scored/*/*.parquet')          one row an image and run: its newest
--     FROM detections('results/scored/*/*.parquet')      one row a box of those, as jobs/compact.py makes them
--
-- The second unnests all boxes of the run each time; for many questions compact once and ask detections/.

CREATE OR REPLACE MACRO newest(files) AS TABLE
    SELECT * FROM read_parquet(files)
    QUALIFY row_number() OVER (PARTITION BY run_id, image_uri ORDER BY scored_at DESC) = 1;

CREATE OR REPLACE MACRO detections(files) AS TABLE
    SELECT image_uri, (place - 1)::SMALLINT AS detection, box.label, box.label_id, box.score,
        box.x_min, box.y_min, box.x_max, box.y_max, model_id
    FROM (
        SELECT image_uri, model_id, unnest(detections) AS box, generate_subscripts(detections, 1) AS place
        FROM newest(files));
