-- Two macros for DuckDB. Load them with `.read pipeline/detections.sql`, then ask
--
--     FROM newest('results/scored/*/*.parquet')          one row an image and run: its newest
--     FROM detections('results/scored/*/*.parquet')      one row a box of those rows, as jobs/compact.py writes them
--
-- The newest row has the highest generation (null = 1); of several, it was scored last.
-- The second macro unnests all boxes of the run each time. For many questions, compact once and ask detections/.

-- The empty second part gives columns that files of older versions lack; they are null there.
CREATE OR REPLACE MACRO newest(files) AS TABLE
    SELECT * FROM (
        FROM read_parquet(files, union_by_name = true)
        UNION ALL BY NAME
        SELECT NULL::INTEGER AS generation, NULL::INTEGER AS num_tiles WHERE false)
    QUALIFY row_number() OVER (
        PARTITION BY run_id, image_uri ORDER BY coalesce(generation, 1) DESC, scored_at DESC NULLS LAST) = 1;

CREATE OR REPLACE MACRO detections(files) AS TABLE
    SELECT image_uri, (place - 1)::SMALLINT AS detection, box.label, box.label_id, box.score,
        box.x_min, box.y_min, box.x_max, box.y_max, model_id
    FROM (
        SELECT image_uri, model_id, unnest(detections) AS box, generate_subscripts(detections, 1) AS place
        FROM newest(files));
