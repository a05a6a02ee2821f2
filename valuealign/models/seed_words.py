"""Word lists of the seed model's text: plain everyday English, written for this purpose.

A theme gathers things, acts and reasons that belong together, so that text made from it teaches which
words keep company. Nothing here says what any public thinks: every theme is spoken for alike.
"""

from __future__ import annotations

from typing import NamedTuple


class Theme(NamedTuple):
    """What belongs together: a title, things (nouns), acts (infinitives) and reasons (clauses)."""

    title: str
    things: tuple[str, ...]
    acts: tuple[str, ...]
    reasons: tuple[str, ...]


def _theme(title: str, things: str, acts: str, reasons: str) -> Theme:
    return Theme(title, *(tuple(part.strip() for part in text.split(",")) for text in (things, acts, reasons)))


THEMES: tuple[Theme, ...] = (
    _theme(
        "family",
        "family, parents, children, grandparents, marriage, relatives, brothers and sisters, home life",
        "visit your parents, cook for the children, keep in touch with relatives, raise a child, care for an old aunt",
        "family stays when others leave, children need time, parents gave us much, a warm home gives strength",
    ),
    _theme(
        "friends",
        "friends, friendship, old classmates, guests, company, a best friend, loyal people",
        "call an old friend, invite friends to dinner, listen to a friend, forgive a friend, stay loyal",
        "a good friend is loyal, friends share the load, friendship grows with time, nobody should feel alone",
    ),
    _theme(
        "neighbours",
        "neighbours, the community, the street, the village, local clubs, volunteers, the town hall",
        "greet your neighbours, join a local club, volunteer in your community, share tools, help clean the street",
        "neighbours rely on each other, a community is built by all, small favours return, people nearby come first",
    ),
    _theme(
        "work",
        "work, a job, the boss, colleagues, the factory, the office, a career, unions, employers, skills",
        "finish a task on time, learn a trade, work overtime, ask for better pay, look for a new job, train workers",
        "good work earns respect, effort pays in the end, skills open doors, a job gives the day its shape",
    ),
    _theme(
        "money",
        "money, income, savings, prices, wages, debt, rent, the bank, wealth, taxes, the economy",
        "save money, pay the rent, buy a house, spend less, lend money, plan a budget, pay taxes, earn a high income",
        "savings bring calm, debt is a burden, wealth opens choices, prices rise faster than wages",
    ),
    _theme(
        "nature",
        "nature, forests, rivers, the climate, clean air, plants, the environment, the sea, wild land",
        "protect nature, plant trees, save water, walk in the forest, recycle glass, clean a river, use less oil",
        "nature cannot speak for itself, clean air belongs to all, the earth is our only home, trees outlive us",
    ),
    _theme(
        "animals",
        "animals, dogs, cats, birds, horses, farm animals, pets, wildlife",
        "feed the birds, adopt a dog, treat animals well, keep a pet, protect wildlife, ride a horse",
        "animals feel pain too, a pet trusts its owner, wildlife needs room, kindness includes animals",
    ),
    _theme(
        "government",
        "the government, parliament, the president, ministers, the state, public services, leaders, local officials",
        "write to the mayor, support the government, criticise leaders, follow politics, pay for public services",
        "leaders must answer to the people, public services hold us together, power needs limits, a state needs order",
    ),
    _theme(
        "elections",
        "elections, voting, political parties, candidates, democracy, the campaign, citizens, a ballot, politicians",
        "vote in elections, join a party, debate with voters, support a candidate, sign a petition, go to a protest",
        "every vote counts, democracy needs citizens, a fair count builds trust, parties should keep their word",
    ),
    _theme(
        "law",
        "the law, courts, the police, judges, crime, prison, rights, rules, justice",
        "obey the law, call the police, report a crime, respect the rules, go to court, punish thieves",
        "rules protect the weak, the law is the same for all, crime hurts everyone, justice takes patience",
    ),
    _theme(
        "safety",
        "safety, security, danger, locks, a safe home, protection, risk, fire alarms, stability",
        "avoid danger, lock the door, stay on the safe side, check the brakes, protect your home, prepare for storms",
        "safety comes before speed, danger is easy to miss, a secure home lets you rest, being careful costs little",
    ),
    _theme(
        "health",
        "health, doctors, hospitals, medicine, sleep, food, exercise, nurses, illness, fruit",
        "see a doctor, eat more fruit, sleep well, exercise every day, quit smoking, take medicine, drink more water",
        "health is hard to win back, the body needs rest, doctors have seen it before, good food gives energy",
    ),
    _theme(
        "learning",
        "school, education, college, teachers, books, students, reading, lessons, knowledge",
        "read a book, study for an exam, go to college, teach a class, learn a language, ask good questions",
        "knowledge cannot be stolen, books widen the world, teachers shape a life, a question is a start",
    ),
    _theme(
        "science",
        "science, scientists, research, experts, experiments, vaccines, space, evidence, facts",
        "trust scientists, test an idea, check the facts, fund research, explore space, listen to experts",
        "facts can be tested, research saves lives, evidence beats opinion, science corrects itself",
    ),
    _theme(
        "media",
        "the media, newspapers, television, the internet, journalists, social media, the news, radio, phones",
        "read the news, watch television, share a story online, turn off the phone, check a source, post a photo",
        "news shapes what we see, rumours travel fast, journalists ask hard questions, screens eat the evening",
    ),
    _theme(
        "religion",
        "religion, god, prayer, the church, faith, the mosque, the temple, holy days, belief",
        "pray every day, go to church, respect every faith, read holy texts, celebrate holy days, keep the faith",
        "faith gives hope, prayer brings peace, belief is a private matter, religion binds people together",
    ),
    _theme(
        "tradition",
        "tradition, customs, old ways, festivals, ancestors, heritage, folk songs, national dress, habits",
        "keep old customs, honour your ancestors, sing folk songs, follow tradition, pass on old recipes",
        "old ways hold wisdom, customs tell us who we are, ancestors paid the price, tradition gives roots",
    ),
    _theme(
        "freedom",
        "freedom, independence, free speech, choice, liberty, privacy, your own path, opinions",
        "choose for yourself, speak freely, go your own way, decide your own plans, question authority, think alone",
        "freedom makes us grow up, nobody else lives your life, your own choice fits best, ideas need open air",
    ),
    _theme(
        "fairness",
        "fairness, equality, equal rights, the poor, women and men, race, minorities, immigrants, opportunity",
        "treat everyone equally, share fairly, defend minorities, help the poor, welcome immigrants, take turns",
        "everyone deserves a chance, equal rights cost nothing, fair shares keep peace, all people count the same",
    ),
    _theme(
        "power",
        "power, status, influence, control, authority, titles, command, prestige, respect from others",
        "take charge, lead a team, give orders, win influence, be the boss, make others listen, own costly things",
        "someone has to lead, influence gets things done, status opens doors, a strong hand keeps order",
    ),
    _theme(
        "success",
        "success, achievement, ambition, talent, prizes, goals, a promotion, praise, competition",
        "win a prize, aim high, beat a record, show your talent, get a promotion, reach a goal, impress people",
        "goals give direction, success rewards effort, ambition moves us, talent should be shown",
    ),
    _theme(
        "pleasure",
        "pleasure, fun, holidays, good food, music, games, comfort, parties, sweets, laughter",
        "enjoy a good meal, have fun, take a long bath, go dancing, spoil yourself, relax on the sofa, play games",
        "life is short, joy needs no excuse, fun keeps us young, rest is part of living, pleasure lifts the day",
    ),
    _theme(
        "adventure",
        "adventure, travel, surprises, risk, change, new places, excitement, sport, challenge",
        "travel abroad, try something new, climb a mountain, take risks, look for surprises, move to another city",
        "new places wake us up, change keeps life lively, a little risk is exciting, boredom teaches nothing",
    ),
    _theme(
        "kindness",
        "kindness, charity, care, generosity, the sick, strangers, people in need, help, love",
        "help a stranger, give to charity, visit the sick, forgive people, care for others, support people in need",
        "kindness costs nothing, someone else may need it more, helping others feels right, care makes people strong",
    ),
    _theme(
        "honesty",
        "honesty, truth, trust, promises, lies, secrets, reputation, duty, conscience",
        "tell the truth, keep a promise, admit a mistake, return a lost wallet, pay back a loan, be open",
        "truth comes out anyway, trust is slow to build, a promise is a promise, honest words last",
    ),
    _theme(
        "politeness",
        "politeness, good manners, obedience, discipline, order, elders, self control, modesty, patience",
        "be polite, wait your turn, obey your elders, keep quiet, be modest, hold back anger, do what is expected",
        "manners cost nothing, patience avoids quarrels, order helps everyone, respect goes both ways",
    ),
    _theme(
        "technology",
        "technology, computers, robots, machines, cars, electric power, inventions, data, apps",
        "repair a computer, build a robot, use a new app, drive an electric car, protect your data, invent a tool",
        "machines save time, new tools bring new habits, data can be misused, progress needs care",
    ),
    _theme(
        "country",
        "the country, the nation, the army, the flag, war and peace, borders, other countries, soldiers",
        "defend your country, serve in the army, keep the peace, guard the borders, be proud of your country",
        "peace must be kept daily, a country is its people, borders need rules, soldiers take great risks",
    ),
)

TITLES = tuple(theme.title for theme in THEMES)

PEOPLE = tuple(
    "My neighbour,An old man,A young woman,The teacher,Her brother,His sister,The farmer,A nurse,Our boss,The student,"
    "My grandmother,A police officer,The mayor,A scientist,The baker,Their daughter,My uncle,A worker,The doctor,"
    "A young man,An old woman,My cousin,The driver,A friend of mine,The judge,A stranger,My son,The shopkeeper".split(
        ","
    )
)
TIMES = tuple(
    "on Sunday,every morning,in the evening,after work,this year,once a week,in spring,in winter,at night,on weekends,"
    "when there is time,most days,before breakfast,during the holidays,in the past,nowadays".split(",")
)
PLACES = tuple(
    "in the north,in the south,in the east,in the west,in a big city,in a small town,in the village,near the coast,"
    "in the capital,in the suburbs,in the countryside,in this region,abroad".split(",")
)
INSTITUTIONS = tuple(
    "the government,the police,the courts,the media,scientists,the church,big companies,the army,teachers,doctors,"
    "political parties,newspapers,banks,local officials,the president,parliament,charities,unions,neighbours,experts,"
    "judges,television news,hospitals,universities,religious leaders,the United Nations,strangers,voters".split(",")
)
ADJECTIVES = tuple(
    "good,bad,new,old,young,small,large,long,short,high,low,hot,cold,warm,cool,dark,bright,heavy,soft,hard,quick,slow,"
    "clean,empty,full,rich,poor,strong,weak,quiet,loud,sweet,bitter,dry,wet,round,flat,deep,narrow,wide,plain,brave,"
    "calm,gentle,green,red,blue,white,black,brown,yellow,early,late,fresh,broken,simple,public,private,local,national,"
    "free,fair,safe,happy,sad,proud,common,rare,open,closed,great,little,rough,smooth,golden,silver,hidden,distant".split(
        ","
    )
)
NOUNS = tuple(
    "apple,river,table,window,garden,letter,bridge,mountain,basket,candle,mirror,road,wheel,ship,boat,train,horse,cow,"
    "sheep,fish,stone,leaf,flower,field,hill,lake,cloud,storm,star,moon,sun,shirt,coat,hat,shoe,bread,cheese,soup,rice,"
    "salt,sugar,tea,coffee,milk,knife,spoon,plate,cup,chair,bed,lamp,clock,book,paper,pen,map,key,door,wall,roof,tower,"
    "house,market,shop,station,harbour,island,desert,valley,beach,drum,song,story,picture,dance,game,ball,rope,coin,"
    "ring,box,bag,bell,brush,hammer,needle,thread,wool,glass,iron,copper,paint,king,queen,guard,sailor,poet,hunter".split(
        ","
    )
)

# The facts about a person that a group may name: (phrases in a group, the option that names it).
TRAITS: dict[str, tuple[tuple[str, ...], tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]]] = {
    "sex": (
        ("Are you a woman or a man?", "What is your gender?", "What is your sex?", "Which of these describes you?"),
        (
            (("a woman", "a female person", "a woman"), ("Woman", "Female", "A woman")),
            (("a man", "a male person", "a man"), ("Man", "Male", "A man")),
        ),
    ),
    "race": (
        ("What is your race?", "Which racial or ethnic group are you from?", "How would you describe your race?"),
        (
            (("who is White", "of White race"), ("White",)),
            (("who is Black", "of Black race"), ("Black",)),
            (("who is Hispanic", "of Hispanic origin"), ("Hispanic", "Hispanic or Latino")),
            (("who is Asian", "of Asian origin"), ("Asian",)),
            (("of another race", "of mixed race"), ("Other", "Another race", "Other or mixed")),
        ),
    ),
    "education": (
        ("What is your highest education?", "How far did you go in school?", "What is your level of education?"),
        (
            (
                ("with a college degree", "who finished college", "with a university degree"),
                ("College degree", "College"),
            ),
            (("with some college", "who left college early"), ("Some college", "College without a degree")),
            (
                ("who finished high school", "with high school or less", "without a degree"),
                ("High school or less", "School"),
            ),
        ),
    ),
    "region": (
        ("Where do you live?", "Which region do you live in?", "In which part of the country is your home?"),
        (
            (("living in the north", "from the north"), ("North", "In the north", "The north")),
            (("living in the south", "from the south"), ("South", "In the south", "The south")),
            (("living in the east", "from the east"), ("East", "In the east", "The east")),
            (("living in the west", "from the west"), ("West", "In the west", "The west")),
        ),
    ),
    "place": (
        (
            "What kind of place do you live in?",
            "Do you live in a city or in the country?",
            "What is your home area like?",
        ),
        (
            (("living in a city", "from a large city", "in an urban area"), ("A city", "City", "Urban area")),
            (("living in a town", "from a small town", "in the suburbs"), ("A town", "Town", "Suburb")),
            (
                ("living in the countryside", "from a village", "in a rural area"),
                ("The countryside", "Village", "Rural area"),
            ),
        ),
    ),
    "income": (
        ("What is your household income?", "How much do you earn?", "How high is your income?"),
        (
            (("with a low income", "earning little"), ("Low", "A low income")),
            (("with a middle income", "earning an average income"), ("Middle", "A middle income")),
            (("with a high income", "earning a lot"), ("High", "A high income")),
        ),
    ),
    "belief": (
        ("Are you religious?", "Do you belong to a religion?", "Which word fits your faith?"),
        (
            (("who is religious", "who goes to church"), ("Religious", "Yes, religious")),
            (("who is not religious", "without religion"), ("Not religious", "No religion")),
        ),
    ),
    "voting": (
        ("How often do you vote?", "Do you take part in elections?", "Do you go to vote?"),
        (
            (("who always votes", "who votes in every election"), ("Always", "In every election")),
            (("who sometimes votes", "who votes now and then"), ("Sometimes", "In some elections")),
            (("who rarely votes", "who does not vote"), ("Rarely", "Never", "Rarely or never")),
        ),
    ),
}
