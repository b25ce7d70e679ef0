-- One user or several, with the four lists of each profile as JSON text; of each, the last profile that says something
-- holds.
SELECT u.id, p.skills, p.knowledge AS knowledges, p.tools, p.languages
FROM users u
LEFT JOIN profiles p ON p.user_id = u.id
WHERE u.id IN (:user_id) AND (u.deleted_at IS NULL OR u.deleted_at < :zero_date)
ORDER BY p.id
