-- Takes phase 1 back: drops the indices that phase1_create_indexes.sql made, and no other.
--
--   mysql --protocol=tcp -h HOST -P PORT -u USER -p interacpedia < migrations/phase1_rollback.sql
-- (Debian 13's client wants --skip-ssl-verify-server-cert where the server has no certificate that it knows.)
--
-- MySQL 5.7+ or MariaDB 10.2+, with SELECT and INDEX on these tables. An index goes only where its name, its exact columns
-- and its comment 'recommendation-service phase 1' are those that the script gave it; one of yours that has the same
-- name, or the same columns, stays. It touches no row, prints two lines for each index, and can be run again.

-- For this session only. Names compare whatever the client speaks; quotes mean what they mean below; and a table whose
-- dates default to zero can be indexed under a strict server.
SET NAMES utf8mb4;
SET SESSION sql_mode = '';
-- Waiting longer for a table behind somebody's open transaction would hold up everyone behind us: rather fail, and be
-- run again.
SET SESSION lock_wait_timeout = 10;
SET @mark = 'recommendation-service phase 1', @dropped = 0, @kept = 0;
-- Without a database there is nothing to look at: the client ends here with "No database selected".
SHOW TABLES LIKE 'phase 1';

-- How an index stands, for @table, @index and @columns: in @state, with more in @detail. The same text is in
-- phase1_create_indexes.sql, phase1_rollback.sql and phase1_validate.sql.
--   present         it is there as phase 1 makes it: name, columns and mark
--   served by yours an index of yours begins with the same columns, so phase 1 adds none
--   other columns   the name is taken by an index that is not of phase 1 and does not serve
--   no table, no column, key too long: it cannot be made
--   absent          it can be made
-- Invisible (MySQL 8) and ignored (MariaDB 10.6) indices serve nothing; older servers have no such column to ask.
SET @is_used = (
  SELECT CASE MAX(column_name) WHEN 'IS_VISIBLE' THEN 's.is_visible = "YES"' WHEN 'IGNORED' THEN 's.ignored = "NO"'
         ELSE '1' END
  FROM information_schema.columns
  WHERE table_schema = 'information_schema' AND table_name = 'STATISTICS' AND column_name IN ('IS_VISIBLE', 'IGNORED'));
SET @look = CONCAT('
  SELECT CASE
      WHEN t.table_name IS NULL THEN "no table"
      WHEN i.is_ours THEN "present"
      WHEN i.serving IS NOT NULL THEN "served by yours"
      WHEN i.same_name IS NOT NULL THEN "other columns"
      WHEN c.found < CHAR_LENGTH(@columns) - CHAR_LENGTH(REPLACE(@columns, ",", "")) + 1 THEN "no column"
      WHEN c.longest > IF(t.row_format IN ("Compact", "Redundant"), 767, 3072) THEN "key too long"
      ELSE "absent" END,
    CASE
      WHEN t.table_name IS NULL THEN CONCAT("there is no table ", @table, ", or you may not see it")
      WHEN i.is_ours THEN CONCAT(@table, " (", @columns, ")")
      WHEN i.serving IS NOT NULL THEN CONCAT(@table, ".", i.serving)
      WHEN i.same_name IS NOT NULL THEN CONCAT(@table, " (", i.same_name, ")")
      WHEN c.found < CHAR_LENGTH(@columns) - CHAR_LENGTH(REPLACE(@columns, ",", "")) + 1
        THEN CONCAT("of (", @columns, ") ", @table, " has (", COALESCE(c.names, ""), ")")
      WHEN c.longest > IF(t.row_format IN ("Compact", "Redundant"), 767, 3072)
        THEN CONCAT("a column of (", @columns, ") has ", c.longest, " bytes, too long for row format ", t.row_format)
      ELSE CONCAT(@table, " (", @columns, ")") END,
    COALESCE(t.engine, "")
  INTO @state, @detail, @engine
  FROM (
    SELECT MAX(index_name = @index AND columns = @columns AND mark = @mark AND is_plain AND NOT is_unique) AS is_ours,
           MAX(IF(index_name = @index, columns, NULL)) AS same_name,
           MIN(IF(is_plain AND is_used AND LEFT(CONCAT(columns, ","), CHAR_LENGTH(@columns) + 1) = CONCAT(@columns, ","),
                  index_name, NULL)) AS serving
    FROM (
      SELECT s.index_name, MAX(s.index_comment) AS mark, MAX(s.index_type = "BTREE") AS is_plain,
             MAX(s.non_unique = 0) AS is_unique, MIN(', @is_used, ') AS is_used,
             GROUP_CONCAT(IF(s.column_name IS NULL, "(expression)",
                             IF(s.sub_part IS NULL, s.column_name, CONCAT(s.column_name, "(", s.sub_part, ")")))
                          ORDER BY s.seq_in_index) AS columns
      FROM information_schema.statistics s
      WHERE s.table_schema = DATABASE() AND s.table_name = @table
      GROUP BY s.index_name) AS each_index) AS i
  CROSS JOIN (
    SELECT COUNT(*) AS found, GROUP_CONCAT(column_name) AS names, MAX(character_octet_length) AS longest
    FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = @table AND FIND_IN_SET(column_name, @columns)) AS c
  LEFT JOIN information_schema.tables t
    ON t.table_schema = DATABASE() AND t.table_name = @table AND t.table_type = "BASE TABLE"');
PREPARE look FROM @look;

-- A foreign key that was added since may lean on an index of ours: then the server would refuse to drop it.
SET @lean = '
  SELECT MIN(k.constraint_name) INTO @foreign_key
  FROM information_schema.key_column_usage k
  WHERE k.table_schema = DATABASE() AND k.referenced_table_name IS NOT NULL AND k.ordinal_position = 1
    AND ((k.table_name = @table AND k.column_name = SUBSTRING_INDEX(@columns, ",", 1))
         OR (k.referenced_table_schema = DATABASE() AND k.referenced_table_name = @table
             AND k.referenced_column_name = SUBSTRING_INDEX(@columns, ",", 1)))
    AND NOT EXISTS (
      SELECT 1 FROM information_schema.statistics s
      WHERE s.table_schema = DATABASE() AND s.table_name = @table AND s.index_name <> @index
        AND s.seq_in_index = 1 AND s.column_name = SUBSTRING_INDEX(@columns, ",", 1))';
PREPARE lean FROM @lean;
SET @decide = '
  SELECT
    IF(@state = "present" AND @foreign_key IS NULL,
       CONCAT("DROP INDEX ", @index, " ON ", @table),
       "DO 0"),
    CONCAT("SELECT ",
           QUOTE(CASE WHEN @state = "present" AND @foreign_key IS NULL THEN CONCAT("dropped from ", @detail)
                      WHEN @state = "present" THEN CONCAT("KEPT: foreign key ", @foreign_key, " needs it")
                      WHEN @state = "served by yours" AND @detail = CONCAT(@table, ".", @index)
                        THEN "kept: it has the name, but not the mark of phase 1"
                      WHEN @state = "other columns" THEN CONCAT("kept: not of phase 1, on ", @detail)
                      ELSE "not there" END),
           " AS ", @index),
    @dropped + (@state = "present" AND @foreign_key IS NULL), @kept + (@state = "present" AND @foreign_key IS NOT NULL)
  INTO @statement, @say, @dropped, @kept';
PREPARE decide FROM @decide;

SET @table = 'activity_log', @index = 'recs_activity_causer', @columns = 'causer_id,created_at';
EXECUTE look; EXECUTE lean; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;
SET @table = 'activity_log', @index = 'recs_activity_created', @columns = 'created_at';
EXECUTE look; EXECUTE lean; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;
SET @table = 'resumes_exhibited', @index = 'recs_exhibited_resume', @columns = 'resume_id';
EXECUTE look; EXECUTE lean; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;
SET @table = 'views', @index = 'recs_views_model', @columns = 'model_type,model_id';
EXECUTE look; EXECUTE lean; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;
SET @table = 'user_connections', @index = 'recs_connections_to', @columns = 'to_id';
EXECUTE look; EXECUTE lean; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;
SET @table = 'user_connections', @index = 'recs_connections_from', @columns = 'from_id';
EXECUTE look; EXECUTE lean; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;
SET @table = 'user_connections', @index = 'recs_connections_created', @columns = 'status,created_at,from_id,to_id';
EXECUTE look; EXECUTE lean; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;
SET @table = 'likes', @index = 'recs_likes_user', @columns = 'user_id';
EXECUTE look; EXECUTE lean; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;
SET @table = 'likes', @index = 'recs_likes_model', @columns = 'type,model_id';
EXECUTE look; EXECUTE lean; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;
SET @table = 'likes', @index = 'recs_likes_created', @columns = 'type,created_at,user_id,model_id';
EXECUTE look; EXECUTE lean; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;
SET @table = 'matches', @index = 'recs_matches_user', @columns = 'user_id';
EXECUTE look; EXECUTE lean; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;
SET @table = 'matches', @index = 'recs_matches_model', @columns = 'status,model_id';
EXECUTE look; EXECUTE lean; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;
SET @table = 'matches', @index = 'recs_matches_created', @columns = 'status,created_at,user_id,model_id';
EXECUTE look; EXECUTE lean; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;
SET @table = 'team_feedbacks', @index = 'recs_ratings_user', @columns = 'user_id';
EXECUTE look; EXECUTE lean; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;
SET @table = 'team_feedbacks', @index = 'recs_ratings_model', @columns = 'type,model_id,value';
EXECUTE look; EXECUTE lean; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;
SET @table = 'team_feedbacks', @index = 'recs_ratings_created', @columns = 'type,created_at,user_id,model_id,value';
EXECUTE look; EXECUTE lean; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;
SET @table = 'resumes', @index = 'recs_resumes_status_created', @columns = 'status,created_at';
EXECUTE look; EXECUTE lean; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;
SET @table = 'profiles', @index = 'recs_profiles_user', @columns = 'user_id';
EXECUTE look; EXECUTE lean; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;
SET @table = 'users', @index = 'recs_users_deleted', @columns = 'deleted_at';
EXECUTE look; EXECUTE lean; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;
SET @table = 'users', @index = 'recs_users_updated', @columns = 'updated_at';
EXECUTE look; EXECUTE lean; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;
SET @table = 'users', @index = 'recs_users_created', @columns = 'created_at';
EXECUTE look; EXECUTE lean; EXECUTE decide; PREPARE step FROM @statement; EXECUTE step; PREPARE say FROM @say; EXECUTE say;

SELECT CONCAT(@dropped, ' dropped, ', @kept, ' of phase 1 kept') AS `phase 1`;
